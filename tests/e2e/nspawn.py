"""Emulated servers whose boot is real: Debian under systemd in a container, with cloud-init.

Each machine has a disk and a network of its own. Scaleway's side of that network is a namespace
too (`Provider`): DHCP, the metadata service, and whatever else a test lets listen there.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from gpu_autoscaler.emulator.scaleway_state import Server

TOOLS = ("curl", "dnsmasq", "ip", "iptables", "mmdebstrap", "nsenter", "systemd-nspawn", "unshare")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
USABLE = not MISSING and os.geteuid() == 0
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "gpu-autoscaler-tests")
"""A Debian and some wheels: it takes a minute to fetch them, so they outlive a run."""
SUITE = "bookworm"
PYTHON = "3.11"
"""Which comes with that Debian."""
PACKAGES = (
    *("systemd-sysv", "dbus", "udev", "cloud-init", "isc-dhcp-client", "netbase", "procps"),
    *("ca-certificates", "curl", "git", "iproute2", "iptables", "openssh-client"),
    "python3-venv",
)
WHEELS = ("clearml-agent==3.0.3", "pip", "setuptools<82", "wheel", "uv==0.13.8")
GATEWAY, METADATA = "10.77.0.1", "169.254.42.42"
FIRST_HOST, LAST_HOST = 10, 60
BACK_CHANNEL = "gpu-autoscaler-boot"
CLONE_NEWNET = 0x40000000
FILES = {
    "etc/cloud/cloud.cfg.d/99-here.cfg": (
        "datasource_list: [Scaleway]\nnetwork: {config: disabled}\n"
        "apt: {preserve_sources_list: true}\nssh_genkeytypes: [ed25519]\n"
        "cloud_config_modules: []\ncloud_final_modules: [scripts-user, final-message]\n"
    ),
    "etc/systemd/network/eth0.network": (
        "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"
        "[DHCPv4]\nClientIdentifier=mac\n"
    ),
    "etc/pip.conf": "[global]\nno-index = true\nfind-links = /opt/wheels\n",
    "etc/uv/uv.toml": 'no-index = true\nfind-links = ["/opt/wheels"]\n',
}
NVIDIA_SMI = '#!/bin/sh\nfor gpu in $(seq 0 $((%d - 1))); do echo "GPU $gpu: a stub"; done\n'


def sh(*words: str) -> str:
    """Run a command that has to succeed; what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """What every machine's disk begins with."""

    root: Path
    wheels: Path

    @classmethod
    def fetched(cls) -> "Image":
        """From the cache, or made now."""
        CACHE.mkdir(parents=True, exist_ok=True)
        image = cls(CACHE / f"{SUITE}-root", CACHE / f"wheels-{PYTHON}")
        with filelock.FileLock(CACHE / "lock"):
            wanted = "\n".join((*PACKAGES, *WHEELS, *FILES.values()))
            stamp = CACHE / "content"
            if not stamp.exists() or stamp.read_text() != wanted:
                making = subprocess.Popen(_download(image.wheels), stdout=subprocess.DEVNULL)
                image._make_root()
                assert making.wait() == 0, "no wheels"
                stamp.write_text(wanted)
        return image

    def _make_root(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        include = f"--include={','.join(PACKAGES)}"
        sh("mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, str(self.root))
        for path, content in FILES.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        (self.root / "opt/wheels").mkdir(parents=True)
        (self.root / "etc/resolv.conf").write_text("")
        sh("systemctl", f"--root={self.root}", "enable", "systemd-networkd")


def _download(folder: Path) -> Sequence[str]:
    platforms = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
    return (
        *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)),
        *("--only-binary=:all:", f"--python-version={PYTHON}"),
        *(f"--platform={platform}" for platform in platforms),
        *WHEELS,
    )


class Network:
    """A network namespace; closing it closes those behind it."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, f"/run/netns/{name}"
        self._behind: list[Network] = []
        sh("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        """Run `ip` in there."""
        sh("ip", "-netns", self.name, *words)

    def command(self, *words: str) -> tuple[str, ...]:
        """A command line that runs in there."""
        return ("nsenter", f"--net={self.path}", *words)

    def change(self, script: str) -> None:
        """Run a script in there that has to succeed."""
        sh(*self.command("bash", "-ec", script))

    def listen(self, host: str, port: int) -> socket.socket:
        """A socket in there, which serves out here: its thread alone has been in there."""
        made: list[socket.socket] = []

        def enter() -> None:
            with Path(self.path).open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
            made.append(socket.create_server((host, port)))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]

    def with_container(self) -> "Network":
        """What Docker gives a container: a network behind this one, with NAT."""
        behind = Network(f"c-{self.name}")
        self._behind.append(behind)
        peer = ("peer", "name", "eth0", "netns", behind.name)
        self.ip("link", "add", "bridge0", "type", "veth", *peer)
        for network, device, address in ((self, "bridge0", 1), (behind, "eth0", 2)):
            network.ip("address", "add", f"172.17.0.{address}/16", "dev", device)
            network.ip("link", "set", device, "up")
        behind.ip("route", "add", "default", "via", "172.17.0.1")
        self.change("iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE")
        self.change("echo 1 >/proc/sys/net/ipv4/ip_forward")
        return behind

    def close(self) -> None:
        """Take it down."""
        for network in self._behind:
            network.close()
        sh("ip", "netns", "delete", self.name)


class Provider:
    """Scaleway's side of the network: a bridge in a namespace, with DHCP."""

    def __init__(self, folder: Path) -> None:
        self._hosts = iter(range(FIRST_HOST, LAST_HOST))
        self.network = Network(f"provider-{os.getpid()}")
        ip = self.network.ip
        ip("link", "add", "br0", "type", "bridge")
        ip("address", "add", f"{GATEWAY}/24", "dev", "br0")
        ip("address", "add", f"{METADATA}/32", "dev", "br0")
        ip("link", "set", "br0", "up")
        dnsmasq = self.network.command(*_dnsmasq(folder / "leases"))
        self._dhcp = subprocess.Popen(dnsmasq, stderr=subprocess.DEVNULL)

    def plug_in(self, network: Network) -> str:
        """Join another network to the bridge; the address that its `eth0` will get."""
        number = next(self._hosts)
        port = f"v{os.getpid()}-{number}"
        peer = ("peer", "name", "eth0", "address", mac(number), "netns", network.name)
        self.network.ip("link", "add", port, "type", "veth", *peer)
        self.network.ip("link", "set", port, "master", "br0", "up")
        return f"10.77.0.{number}"

    def listen(self, host: str = GATEWAY, port: int = 0) -> socket.socket:
        """A socket in there, which serves out here."""
        return self.network.listen(host, port)

    def close(self) -> None:
        """Take it all down."""
        self._dhcp.terminate()
        self._dhcp.wait()
        self.network.close()


def _dnsmasq(leases: Path) -> Sequence[str]:
    return (
        *("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--pid-file="),
        *("--interface=br0", "--bind-interfaces", "--user=root", "--log-facility=-"),
        *(f"--dhcp-leasefile={leases}", "--quiet-dhcp", "--dhcp-range=10.77.0.0,static"),
        f"--dhcp-option=3,{GATEWAY}",
        *(f"--dhcp-host={mac(n)},10.77.0.{n}" for n in range(FIRST_HOST, LAST_HOST)),
    )


def mac(number: int) -> str:
    """Of the machine whose address ends in this number."""
    return f"02:00:00:00:00:{number:02x}"


class Machine:
    """One machine: its disk, its network, and the process that is its power."""

    def __init__(self, image: Image, provider: Provider, folder: Path, gpus: int) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.console = folder / "console.log"
        self._image = image
        self.network = Network(f"m{os.getpid()}-{folder.name}")
        self._power: subprocess.Popen[bytes] | None = None
        upper, work = folder / "disk", folder / "work"
        for path in (self.root, upper, work):
            path.mkdir(parents=True)
        layers = f"lowerdir={image.root},upperdir={upper},workdir={work}"
        sh("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        smi = self.root / "usr/local/bin/nvidia-smi"
        smi.write_text(NVIDIA_SMI % gpus)
        smi.chmod(0o755)
        self.address = provider.plug_in(self.network)

    def power_on(self) -> None:
        """Boot; whatever still runs is cut off."""
        self.cut_off()
        nspawn = (
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"),
            *(
                f"--machine={self.network.name}",
                "--register=no",
                "--keep-unit",
                "--console=read-only",
            ),
            *(f"--network-namespace-path={self.network.path}", "--resolv-conf=off"),
            *("--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--link-journal=no"),
            *("--timezone=off", f"--bind-ro={self._image.wheels}:/opt/wheels"),
            "scaleway",  # on the kernel's command line cloud-init knows its cloud by
        )
        unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        with self.console.open("ab") as console:
            self._power = subprocess.Popen(
                (*unshare, *nspawn),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def power_off(self) -> None:
        """As the button does: systemd shuts down."""
        for child in self._children():
            os.kill(child, signal.SIGTERM)

    def cut_off(self) -> None:
        """Pull the plug."""
        if self._power is not None:
            self._power.kill()
            self._power.wait()
            self._power = None

    @property
    def running(self) -> bool:
        """Whether its power is on."""
        return self._power is not None and self._power.poll() is None

    def init(self) -> int | None:
        """The process id of its systemd, seen from here."""
        for nspawn in self._children():
            for child in children(nspawn):
                return child
        return None

    def _children(self) -> list[int]:
        return children(self._power.pid) if self._power is not None and self.running else []

    def shell(self, script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script in it, as root."""
        words = ("nsenter", "--target", str(self.init()), "--all", "bash", "-c", script)
        return subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)

    def close(self) -> None:
        """End it, and give back all but its files."""
        self.cut_off()
        sh("umount", "--lazy", str(self.root))
        self.network.close()


def children(pid: int) -> list[int]:
    """Of a process, of which the first thread alone has any."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class UserData(dict[str, bytes]):
    """Of one server, with all that was ever said on the back channel."""

    def __init__(self, begun: Mapping[str, bytes]) -> None:
        super().__init__(begun)
        self.milestones: list[str] = []

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        if key == BACK_CHANNEL:
            self.milestones.append(value.decode())


class NspawnMachines:
    """Fits the `Machines` that the emulated Scaleway calls; `gpus` are how many it really has."""

    def __init__(
        self, image: Image, provider: Provider, folder: Path, gpus: Callable[[Server], int]
    ) -> None:
        self._image, self._provider, self._folder, self._gpus = image, provider, folder, gpus
        self.all: dict[str, Machine] = {}
        """By the name of their server."""
        self.milestones: dict[str, list[str]] = {}
        """By the name of their server."""
        self._servers: dict[str, Server] = {}

    def powered_on(self, server: Server) -> None:
        machine = self.all.get(server.name)
        if machine is None:
            folder = self._folder / str(len(self.all))
            machine = Machine(self._image, self._provider, folder, self._gpus(server))
            self.all[server.name] = machine
            self._servers[machine.address] = server
            server.user_data = UserData(server.user_data)
            self.milestones[server.name] = server.user_data.milestones
        machine.power_on()

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        machine = self.all[server.name]
        if graceful:
            machine.power_off()
        else:
            machine.cut_off()

    def server_at(self, address: str) -> Server | None:
        """Whose address that is."""
        return self._servers.get(address)

    def close(self) -> None:
        """End what still runs."""
        for machine in self.all.values():
            machine.close()
