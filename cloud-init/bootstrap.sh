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
readonly UV="${ROOT}/root/clearml_agent_uv"
readonly AGENT=clearml-agent.service
readonly PREFLIGHT=gpu-autoscaler-preflight.service
readonly REPORT="${ROOT}/usr/local/sbin/gpu-autoscaler-report"
readonly AGENT_VERSION={{ agent_version }}
readonly USE_DOCKER={{ use_docker }}
readonly PACKAGES=({{ packages }})
readonly UV_VERSION=0.13.8
readonly REGISTRY={{ registry }}
readonly DOCKER_IMAGE={{ docker_image }}
readonly WITH_SSH_KEY={{ with_ssh_key }}

export HOME="${ROOT}/root"
export DEBIAN_FRONTEND=noninteractive
export NEEDRESTART_SUSPEND=1 # or apt would restart Docker, or ask which services to restart

STEP="start"
CHANGED=no

report() {
    if [[ -x "$REPORT" ]]; then
        "$REPORT" "$@" || true
    fi
}

# An EXIT trap, not ERR: it also sees unset variables, and speaks once for nested functions.
report_failure() {
    local code=$?
    if ((code != 0)); then
        printf 'bootstrap failed in step "%s" (exit code %d)\n' "$STEP" "$code" >&2
        if [[ "$STEP" != preflight ]]; then # which says better what it found
            report "failed: $STEP (exit code $code)"
        fi
    fi
}
trap report_failure EXIT

# step NAME: run the function of that name.
step() {
    STEP="$1"
    printf 'bootstrap: %s\n' "$STEP"
    report "installing: $STEP"
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

log_in_to_registry() {
    if [[ -n "$REGISTRY" ]]; then
        retry docker_login
    fi
}

docker_login() {
    docker login --username {{ registry_user }} --password-stdin "$REGISTRY" <<'{{ end_of_file }}'
{{ registry_password }}
{{ end_of_file }}
}

# In the background, while the agent installs. One that fails is tried again by the first task.
pull_image() {
    if [[ "$USE_DOCKER" == yes && -n "$DOCKER_IMAGE" ]]; then
        systemd-run --quiet --collect --unit=gpu-autoscaler-pull --setenv=HOME=/root \
            docker pull --quiet "$DOCKER_IMAGE" || true
    fi
}

# uv needs a fifth of pip's time, most of which goes into putting pip itself in the environment.
# It is fetched by the pip that python3-venv keeps as a wheel; where that fails, pip does it all.
install_agent() {
    if fetch_uv && install_with_uv; then
        return 0
    fi
    printf 'bootstrap: no uv, installing with pip\n' >&2
    python3 -m venv "$VENV"
    retry "${VENV}/bin/python" -m pip install --quiet --disable-pip-version-check \
        "clearml-agent==${AGENT_VERSION}"
}

fetch_uv() {
    local pip=(/usr/share/python-wheels/pip-*.whl)
    [[ -x "${UV}/bin/uv" ]] || timeout 120 python3 "${pip[0]}/pip" install --quiet \
        --disable-pip-version-check --target "$UV" "uv==${UV_VERSION}"
}

install_with_uv() {
    "${UV}/bin/uv" venv --quiet --seed --allow-existing --python "$(command -v python3)" "$VENV" &&
        "${UV}/bin/uv" pip install --quiet --python "${VENV}/bin/python" \
            "clearml-agent==${AGENT_VERSION}"
}

write_configuration() {
    write_file 0600 /root/clearml.conf <<'{{ end_of_file }}'
{{ clearml_conf }}
{{ end_of_file }}
    write_file 0600 /etc/clearml/environment <<'{{ end_of_file }}'
{{ environment }}
{{ end_of_file }}
    if [[ "$WITH_SSH_KEY" == yes ]]; then
        write_ssh_key
    fi
}

write_ssh_key() {
    write_file 0600 /root/.ssh/gpu-autoscaler <<'{{ end_of_file }}'
{{ ssh_key }}
{{ end_of_file }}
    write_file 0600 /root/.ssh/config <<'{{ end_of_file }}'
Host *
    IdentityFile ~/.ssh/gpu-autoscaler
    StrictHostKeyChecking accept-new
{{ end_of_file }}
}

write_report() {
    write_file 0755 /usr/local/sbin/gpu-autoscaler-report <<'{{ end_of_file }}'
{{ include report.sh }}
{{ end_of_file }}
}

write_units() {
    write_file 0755 /usr/local/sbin/gpu-autoscaler-preflight <<'{{ end_of_file }}'
{{ include preflight.sh }}
{{ end_of_file }}
    write_file 0644 "/etc/systemd/system/${PREFLIGHT}" <<'{{ end_of_file }}'
{{ include gpu-autoscaler-preflight.service }}
{{ end_of_file }}
    write_file 0644 "/etc/systemd/system/${AGENT}" <<'{{ end_of_file }}'
{{ include clearml-agent.service }}
{{ end_of_file }}
}

run_extra_script() {
    write_file 0700 /root/clearml_extra_script.sh <<'{{ end_of_file }}'
{{ extra_script }}
{{ end_of_file }}
    bash -e "${ROOT}/root/clearml_extra_script.sh"
}

# Enabled before the preflight: a machine that fails it and is mended needs but a reboot.
load_units() {
    systemctl daemon-reload
    if [[ "$CHANGED" == yes ]]; then
        systemctl stop "$AGENT" "$PREFLIGHT"
    fi
    systemctl enable "$AGENT"
}

preflight() {
    systemctl start "$PREFLIGHT"
}

start_agent() {
    systemctl start "$AGENT"
}

step write_report
step install_packages
step log_in_to_registry
step pull_image
step install_agent
step write_configuration
step write_units
step run_extra_script
step load_units
step preflight
step start_agent
printf 'bootstrap: done\n'
