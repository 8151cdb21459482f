#!/usr/bin/env bash
# The command of docs/cluster.md's pods, twice on this machine: each started anew whenever it fails, as Kubernetes does, and one killed in the middle.
#
#     bash benchmarks/pods.sh        # with aegen's environment active; about two minutes
#
# What the training operator says in PET_* variables is said here. The weights that the run ends with are those of one left alone.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
one= two=
# The processes that one has started, and those that they have: torchrun gives each worker a session of its own, which no group reaches.
below() {
  ps -e -o pid=,ppid= | awk -v top="$1" '{up[$1] = $2} END {for (p in up) {q = p; while (q > 1 && q != top) q = up[q]; if (q == top && p != top) print p}}'
}
# Whatever fails: no pod is left that starts itself again, nor what it had started; each has groups of its own, which its file names.
end() {
  code=$?
  trap - EXIT INT TERM
  for loop in $one $two; do kill "$loop" 2>/dev/null || true; done
  for file in "$work"/pod*.group; do
    [ -e "$file" ] || continue
    group=$(cat "$file")
    kill -9 -- "-$group" $(below "$group") 2>/dev/null || true
  done
  if [ "$code" -ne 0 ]; then
    echo "failed with $code; the ends of the logs are:" >&2
    tail -n 5 "$work"/*.log >&2 || true
  fi
  cd / && rm -rf "$work"
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$work"
more="--size 16 --arch mlp --batch-size 16 --device cpu --set train.epochs=200 --set checkpoint.every_steps=100"
sed -n '/^                - |/,/^              resources/p' "$here/docs/cluster.md" | sed '1d;$d; s/^ *//' |
  sed "s#/data#$work#g; s/--size 256/$more/" >pod.sh
cat pod.sh
python "$here/benchmarks/cluster.py" photos photos
export OMP_NUM_THREADS=1
pod() {
  export PET_NNODES=2:2 PET_NPROC_PER_NODE=1 PET_RDZV_BACKEND=c10d PET_RDZV_ENDPOINT=localhost:29533 PET_RDZV_ID=faces PET_MAX_RESTARTS=3
  for try in 1 2 3 4 5 6; do
    # The group is that of the shell which becomes setsid's, torchrun, and all that it starts, whatever torchrun is on this machine.
    setsid -w sh -c 'echo $$ >"$0" && . ./pod.sh' "$PWD/pod$1.group" >>"pod$1.log" 2>&1 && return
    echo "pod $1 is started again" && sleep 2
  done
  echo "pod $1 failed $try times" >&2
  return 1
}
pod 1 & one=$!
sleep 1
pod 2 & two=$!
waits=0
while [ ! -e runs/faces/checkpoints/last.safetensors ]; do
  kill -0 $one 2>/dev/null && kill -0 $two 2>/dev/null || { echo "a pod ended before the first checkpoint" >&2; exit 1; }
  waits=$((waits + 1))
  [ $waits -le 1500 ] || { echo "there is no checkpoint after five minutes" >&2; exit 1; }
  sleep 0.2
done
sleep 2
group=$(cat pod2.group)
echo "pod 2 is killed: $(tail -n 1 runs/faces/metrics.jsonl | cut -c 1-60)"
kill -9 -- "-$group" $(below "$group") 2>/dev/null || { echo "pod 2, group $group, could not be killed: it had ended" >&2; exit 1; }
wait $one || { echo "pod 1 did not end well" >&2; exit 1; }
wait $two || { echo "pod 2 did not end well" >&2; exit 1; }
grep -h "^run \|^error" pod1.log pod2.log
torchrun --standalone --nproc-per-node 2 -m aegen train --data photos $more --run-dir runs/alone >alone.log 2>&1
python "$here/benchmarks/cluster.py" apart runs/alone runs/faces
