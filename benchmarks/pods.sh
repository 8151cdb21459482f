#!/usr/bin/env bash
# The command of docs/cluster.md's pods, twice on this machine: each started anew whenever it fails, as Kubernetes does, and one killed in the middle.
#
#     bash benchmarks/pods.sh        # with aegen's environment active; about two minutes
#
# What the training operator says in PET_* variables is said here. The weights that the run ends with are those of one left alone.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
more="--size 16 --arch mlp --batch-size 16 --device cpu --set train.epochs=200 --set checkpoint.every_steps=100"
sed -n '/^                - |/,/^              resources/p' "$here/docs/cluster.md" | sed '1d;$d; s/^ *//' |
  sed "s#/data#$work#g; s/--size 256/$more/" >pod.sh
cat pod.sh
python "$here/benchmarks/cluster.py" photos photos
export OMP_NUM_THREADS=1
pod() {
  export PET_NNODES=2:2 PET_NPROC_PER_NODE=1 PET_RDZV_BACKEND=c10d PET_RDZV_ENDPOINT=localhost:29533 PET_RDZV_ID=faces PET_MAX_RESTARTS=3
  until setsid -w sh pod.sh >>"pod$1.log" 2>&1; do echo "pod $1 is started again" && sleep 2; done
}
pod 1 & one=$!
sleep 1
pod 2 & two=$!
while [ ! -e runs/faces/checkpoints/last.safetensors ]; do sleep 0.2; done
sleep 2
agent=$(pgrep -n -f "torchrun -m aegen train.*$work")
echo "pod 2 is killed: $(tail -n 1 runs/faces/metrics.jsonl | cut -c 1-60)"
kill -9 "$agent" $(pgrep -P "$agent")
wait $one $two
grep -h "^run \|^error" pod1.log pod2.log
torchrun --standalone --nproc-per-node 2 -m aegen train --data photos $more --run-dir runs/alone >alone.log 2>&1
python "$here/benchmarks/cluster.py" apart runs/alone runs/faces
