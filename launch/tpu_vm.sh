#!/bin/bash
# A run on a Cloud TPU: makes the slice by a queued resource, runs on all of its hosts, and does so
# again after a preemption. To be left running on a machine with gcloud, in tmux for example.
set -u
name={{ name | sh }}
at=({{ at | words }})
remote={{ remote | sh }}

say() { echo "$(date +%T) tpu_vm.sh: $*" >&2; }
state() {  # NONE: there is no such resource; UNKNOWN: gcloud cannot tell, as without a network
  local out
  if out=$(gcloud compute tpus queued-resources describe "$name" "${at[@]}" \
             --format='value(state.state)' 2>&1); then
    echo "$out"
  elif [[ $out == *NOT_FOUND* || $out == *"not found"* || $out == *"could not be found"* ]]; then
    echo NONE
  else
    say "$out"
    echo UNKNOWN
  fi
}
remove() { gcloud compute tpus queued-resources delete "$name" "${at[@]}" --force --quiet >&2; }

heard=  # whether gcloud has answered: before that it may lack a login, later perhaps the network
for ((start = 1; start <= {{ max_restarts }} + 1; start++)); do
  say "start $start"
  while now=$(state); [ "$now" != ACTIVE ]; do
    [ "$now" = UNKNOWN ] || heard=yes
    case $now in
      UNKNOWN) [ "$heard" ] || { say 'gcloud cannot describe the slice'; exit 2; } ;;
      FAILED|SUSPENDED|SUSPENDING) remove ;;  # a preempted slice does not come back by itself
      NONE) gcloud compute tpus queued-resources create "$name" "${at[@]}" --node-id="$name" \
            {{ create | words }} >&2 || { say 'the slice was refused'; exit 2; } ;;
    esac
    sleep {{ poll_seconds }}
  done
  heard=yes
  # ssh tells only that some host failed; each says its exit code itself.
  codes=$(gcloud compute tpus tpu-vm ssh "$name" "${at[@]}" --worker=all --command="$remote" |
          tee /dev/stderr | sed -n 's/^imgjax-exit-code //p' | sort -nu | tr '\n' ' ')
  say "exit codes: ${codes:-none}"
  [ "$codes" != '0 ' ] || { remove; exit 0; }
  for final in {{ final_codes | join(' ') }}; do
    case " $codes" in *" $final "*)
      say "starting again would not help, a line 'imgjax:' above has the reason"
      exit "$final" ;;
    esac
  done
  sleep {{ poll_seconds }}
done
say 'not started again: it has been restarted {{ max_restarts }} times'
exit 75
