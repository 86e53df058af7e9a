#!/bin/bash
# Turns a bare GPU instance into a ClearML worker. gpu-autoscaler renders this template for one
# instance and one queue; cloud-init runs the result once, as root, at the first boot. Running it
# again by hand repeats only what is missing or changed. cloud-init/README.md says more.
#
# BOOTSTRAP_ROOT is put in front of every path that is written: empty on a real machine, a
# temporary directory in tests.
set -euo pipefail

readonly ROOT="${BOOTSTRAP_ROOT:-}"
readonly VENV="${ROOT}/root/clearml_agent_venv"
readonly UNIT=clearml-agent.service
readonly AGENT_VERSION={{ agent_version }}
readonly USE_DOCKER={{ use_docker }}
readonly PACKAGES=({{ packages }})

export HOME="${ROOT}/root"
export DEBIAN_FRONTEND=noninteractive
export NEEDRESTART_SUSPEND=1 # or apt would restart Docker, or ask which services to restart

STEP="start"
CHANGED=no

# An EXIT trap, not ERR: it also sees unset variables, and speaks once for nested functions.
report_failure() {
    local code=$?
    if ((code != 0)); then
        printf 'bootstrap failed in step "%s" (exit code %d)\n' "$STEP" "$code" >&2
    fi
}
trap report_failure EXIT

# step NAME: run the function of that name.
step() {
    STEP="$1"
    printf 'bootstrap: %s\n' "$STEP"
    "$STEP"
}

# retry COMMAND...: up to five attempts, 100 seconds of waiting in all.
retry() {
    local attempt
    for attempt in 1 2 3 4 5; do
        if "$@"; then
            return 0
        fi
        printf 'bootstrap: attempt %d of 5 failed: %s\n' "$attempt" "$1" >&2
        if ((attempt < 5)); then
            sleep $((attempt * 10))
        fi
    done
    return 1
}

# write_file MODE PATH: put stdin there, all or nothing, never readable by others on the way.
write_file() {
    local mode="$1" target="${ROOT}$2" fresh
    (umask 077 && mkdir -p "$(dirname "$target")")
    fresh="$(mktemp "${target}.XXXXXX")"
    cat >"$fresh"
    chmod "$mode" "$fresh"
    if ! cmp -s "$fresh" "$target"; then
        CHANGED=yes
    fi
    mv -f "$fresh" "$target"
}

# Only what is missing: on the GPU image that is next to nothing, and an apt mirror that is down
# costs no boot. Nothing is upgraded: an upgrade replaces the NVIDIA driver under the running one.
install_packages() {
    local package wanted=("${PACKAGES[@]}") missing=()
    if [[ "$USE_DOCKER" == yes ]] && ! command -v docker >/dev/null; then
        wanted+=(docker.io)
    fi
    for package in "${wanted[@]}"; do
        if ! dpkg-query --show --showformat='${Status}\n' "$package" 2>/dev/null |
            grep -q ' ok installed$'; then
            missing+=("$package")
        fi
    done
    if ((${#missing[@]} > 0)); then
        retry apt-get -o DPkg::Lock::Timeout=300 update
        retry apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"
    fi
}

install_agent() {
    python3 -m venv "$VENV"
    retry "${VENV}/bin/python" -m pip install --quiet --disable-pip-version-check \
        "clearml-agent==${AGENT_VERSION}"
}

write_configuration() {
    write_file 0600 /root/clearml.conf <<'{{ end_of_file }}'
{{ clearml_conf }}
{{ end_of_file }}
    write_file 0600 /etc/clearml/environment <<'{{ end_of_file }}'
{{ environment }}
{{ end_of_file }}
}

# After and PartOf docker, so that at shutdown, or when Docker restarts, the agent stops first:
# the other way round ClearML is told that a killed task completed. No PrivateTmp: task
# containers mount their configuration from the host's /tmp. A lock left there by a power cut
# would keep the agent from starting, and an agent without a working Docker or GPU would take one
# task after the other and fail it.
write_unit() {
    write_file 0644 "/etc/systemd/system/${UNIT}" <<'{{ end_of_file }}'
[Unit]
Description=ClearML agent
Wants=network-online.target docker.service
After=network-online.target docker.service
PartOf=docker.service

[Service]
Type=simple
Environment=HOME=/root
EnvironmentFile=/etc/clearml/environment
ExecStartPre=/bin/sh -c 'rm -f /tmp/.clearmlagent_*'
ExecStartPre=/bin/sh -c 'if command -v nvidia-smi >/dev/null; then nvidia-smi -L; fi'
ExecStartPre=/bin/sh -c 'if command -v docker >/dev/null; then docker info >/dev/null; fi'
ExecStart={{ agent_command }}
Restart=always
RestartSec=15
SuccessExitStatus=254
KillMode=mixed
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
{{ end_of_file }}
}

run_extra_script() {
    write_file 0700 /root/clearml_extra_script.sh <<'{{ end_of_file }}'
{{ extra_script }}
{{ end_of_file }}
    bash -e "${ROOT}/root/clearml_extra_script.sh"
}

start_agent() {
    systemctl daemon-reload
    if [[ "$CHANGED" == yes ]]; then
        systemctl try-restart "$UNIT"
    fi
    systemctl enable --now "$UNIT"
}

step install_packages
step install_agent
step write_configuration
step write_unit
step run_extra_script
step start_agent
printf 'bootstrap: done\n'
