#!/bin/bash
# Says on the back channel how far this boot is, in one line of ASCII. An instance may write its
# own user data without credentials, from a port that only root can use; the daemon reads this key.
# Its own end tells nothing: a boot never fails because nobody could be told.
#
#     gpu-autoscaler-report 'installing: STEP' | preflight | ready | 'failed: WHY'
text="$(printf '%s' "$*" | LC_ALL=C tr -c ' -~' '?')"
text="${text:0:200}"
tries=2
if [[ "$text" == failed:* ]]; then
    tries=10 # nothing follows that would wait for it
fi
for ((try = 1; try <= tries; try++)); do
    if curl --fail --silent --show-error --noproxy '*' --max-time 3 --local-port 1-1023 \
        --request PATCH --header 'Content-Type: text/plain' --data-binary "$text" \
        --output /dev/null http://169.254.42.42/user_data/gpu-autoscaler-boot; then
        exit 0
    fi
    if ((try < tries)); then
        sleep 2
    fi
done
printf 'could not report "%s"\n' "$text" >&2
exit 0
