#!/bin/bash
# Looks at every boot whether this machine can do a task's work. The agent's unit requires that it
# ends well, so a machine that fails here never pulls a task.
set -euo pipefail

readonly USE_DOCKER={{ use_docker }}
readonly SCRATCH={{ scratch }} # where to mount it; empty: there is none
readonly LABEL=gpu-scratch
readonly METADATA4=169.254.42.42 METADATA6=fd00:42::42
readonly SLOW=4 # drivers and Docker may need so many looks, 3 s apart

report() {
    /usr/local/sbin/gpu-autoscaler-report "$@"
}

fail() {
    printf 'preflight failed: %s\n' "$1" >&2
    trap - EXIT
    report "failed: $1"
    exit 1
}

unforeseen() {
    local code=$?
    ((code == 0)) || fail "preflight (exit code $code)"
}
trap unforeseen EXIT

# patiently COMMAND...: until it succeeds.
patiently() {
    local look
    for ((look = 1; look <= SLOW; look++)); do
        if "$@"; then
            return 0
        fi
        if ((look < SLOW)); then
            sleep 3
        fi
    done
    return 1
}

# User data holds secrets, and containers may use ports below 1024 too. In PREROUTING, which
# forwarded packets pass and the machine's own do not, and in a table that Docker does not reorder.
close_metadata() {
    close iptables "$METADATA4" || return 1
    if [[ -e /proc/net/if_inet6 ]]; then
        close ip6tables "$METADATA6"
    fi
}

close() {
    local rule=(PREROUTING --destination "$2" --jump DROP)
    "$1" -w -t raw -C "${rule[@]}" 2>/dev/null || "$1" -w -t raw -I "${rule[@]}"
}

# The number of GPUs stands in the type's name: H100-SXM-4-80G has 4. Others have none to look for.
expected_gpus() {
    local type
    type="$(curl --fail --silent --show-error --noproxy '*' --max-time 5 --retry 5 \
        --retry-connrefused "http://${METADATA4}/conf?format=json" |
        grep -o '"commercial_type": *"[^"]*"' | cut -d '"' -f 4)" || return 1
    if [[ "$type" =~ -([0-9]+)-[0-9]+G$ ]]; then
        printf '%d' "${BASH_REMATCH[1]}"
    elif [[ "$type" == RENDER-S ]]; then
        printf 1
    else
        printf 0
    fi
}

count_gpus() {
    timeout 60 nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
}

all_gpus_present() {
    [[ "$(count_gpus)" == "$1" ]]
}

check_gpus() {
    if (($1 > 0)) && ! patiently all_gpus_present "$1"; then
        fail "$(count_gpus) GPU, expected $1"
    fi
}

docker_answers() {
    timeout 60 docker info >/dev/null
}

# Starting a container would need an image; this asks the library that gives containers their GPUs.
check_docker() {
    patiently docker_answers || fail "Docker does not answer"
    if (($1 > 0)); then
        local seen
        seen="$(timeout 60 nvidia-container-cli info | grep -c '^Device Index:' || true)"
        ((seen == $1)) || fail "containers see $seen GPU, expected $1"
    fi
}

# A disk that carries no signature of anything, the largest. It is raw after each stop and start.
raw_disk() {
    local size name type signatures
    while read -r size name type; do
        if [[ "$type" == disk ]] && ((size >= 10 ** 9)) && signatures="$(wipefs "$name")" &&
            [[ -z "$signatures" ]]; then
            printf '%s' "$name"
            return
        fi
    done < <(lsblk --bytes --nodeps --noheadings --paths --output SIZE,NAME,TYPE | sort -nr)
}

mount_scratch() {
    local disk
    if mountpoint --quiet "$SCRATCH"; then
        return
    fi
    # a reboot keeps it
    disk="$(blkid --label "$LABEL" || true)"
    if [[ -z "$disk" ]]; then
        disk="$(raw_disk)"
        [[ -n "$disk" ]] || fail "no scratch disk"
        mkfs.ext4 -q -m 0 -L "$LABEL" -E lazy_itable_init=1,lazy_journal_init=1 "$disk" ||
            fail "scratch disk $disk cannot be formatted"
    fi
    mkdir -p "$SCRATCH"
    mount -o noatime "$disk" "$SCRATCH" || fail "scratch disk $disk cannot be mounted"
    chmod 1777 "$SCRATCH"
}

report preflight
close_metadata || fail "the metadata address cannot be closed to containers"
gpus="$(expected_gpus)" || fail "the metadata service does not answer"
check_gpus "$gpus"
if [[ "$USE_DOCKER" == yes ]]; then
    check_docker "$gpus"
fi
if [[ -n "$SCRATCH" ]]; then
    mount_scratch
fi
printf 'preflight: passed, GPUs: %s\n' "$gpus"
