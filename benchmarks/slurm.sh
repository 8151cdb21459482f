#!/usr/bin/env bash
# The Slurm script of docs/cluster.md on a cluster of two nodes on this machine: each a network namespace with a host name of its own.
#
#     apt-get install slurm-wlm munge iproute2 && bash benchmarks/slurm.sh      # as root, with aegen's environment active
#
# The job is requeued in the middle, as a cluster does when it takes nodes away (Slurm lets two minutes pass before it begins again); the
# weights it ends with are those of two processes of one machine that were left alone. What the page's script says of GPUs is taken out of it:
# one process a node, on its CPU.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
base=10.77.0
nodes=(aegen-n1 aegen-n2)

finish() {
  kill $(cat "$work"/*.pid 2>/dev/null) 2>/dev/null || true
  for node in "${nodes[@]}"; do ip netns del "$node" 2>/dev/null || true; done
  ip link del aegen-br 2>/dev/null || true
  sed -i '/# aegen-slurm$/d' /etc/hosts 2>/dev/null || { grep -v '# aegen-slurm$' /etc/hosts >"$work/hosts"; cat "$work/hosts" >/etc/hosts; }
  rm -rf "$work"
}
trap finish EXIT

# Two nodes and the controller, on one bridge.
ip link add aegen-br type bridge
ip addr add $base.1/24 dev aegen-br
ip link set aegen-br up
echo "$base.1 aegen-ctl # aegen-slurm" >>/etc/hosts
for n in 1 2; do
  node=${nodes[n - 1]}
  echo "$base.1$n $node # aegen-slurm" >>/etc/hosts
  ip netns add "$node"
  ip link add "aegen-v$n" type veth peer name eth0 netns "$node"
  ip link set "aegen-v$n" master aegen-br up
  ip -n "$node" addr add $base.1$n/24 dev eth0
  ip -n "$node" link set eth0 up
  ip -n "$node" link set lo up
done

chmod 755 "$work"
mkdir -p /run/munge "$work/state" "$work/spool/${nodes[0]}" "$work/spool/${nodes[1]}"
chown munge: /run/munge
[ -e /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key && chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key; }
pgrep -x munged >/dev/null || setpriv --reuid munge --regid munge --clear-groups munged
cat >"$work/slurm.conf" <<END
ClusterName=aegen
SlurmctldHost=aegen-ctl($base.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool/%n
SlurmctldPidFile=$work/ctl.pid
SlurmdPidFile=$work/%n.pid
SlurmctldLogFile=$work/ctl.log
SlurmdLogFile=$work/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=20
NodeName=${nodes[0]} NodeAddr=$base.11 CPUs=2 CoresPerSocket=2 State=UNKNOWN
NodeName=${nodes[1]} NodeAddr=$base.12 CPUs=2 CoresPerSocket=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\n' >"$work/cgroup.conf"
export SLURM_CONF=$work/slurm.conf
unshare -u sh -c 'hostname aegen-ctl && exec slurmctld -f "$SLURM_CONF"'
for node in "${nodes[@]}"; do
  ip netns exec "$node" unshare -um sh -c "hostname $node; mount -t tmpfs none /sys/fs/cgroup; exec slurmd -f '$SLURM_CONF'"
done
for _ in $(seq 30); do [ "$(sinfo -h -t idle -o %D)" = 2 ] && break || sleep 1; done
sinfo

# The page's own script, on CPUs; --set words come after those of the page.
cd "$work"
more='--set train.epochs=100 --set checkpoint.every_steps=200 --device cpu'
sed -n '/^### Slurm/,/^### /p' "$here/docs/cluster.md" | sed -n '/^```sh/,/^```/p' | sed '1d;$d' |
  sed "s/ --gpus-per-node=8 --cpus-per-task=64/ --cpus-per-task=2 --output=$(sed 's/\//\\\//g' <<<"$work")\/job.log --open-mode=append/; s/per-node gpu/per-node 1/; s/--size 256/--size 16 --arch mlp --objective vae --batch-size 16 $more/" >job.sh
cat job.sh
python "$here/benchmarks/cluster.py" photos photos
export OMP_NUM_THREADS=1 AEGEN_CACHE=
job=$(sbatch --parsable --requeue job.sh)
for _ in $(seq 240); do [ -e runs/faces/checkpoints/last.safetensors ] && break || sleep 0.5; done
scontrol requeue "$job" && echo "requeued $job in the middle: $(tail -n 1 runs/faces/metrics.jsonl)"
scontrol release "$job" 2>/dev/null || true
for _ in $(seq 600); do
  state=$(scontrol show job "$job" | grep -oP 'JobState=\K\w+')
  case $state in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) break ;; *) sleep 0.5 ;; esac
done
echo "job $job: $state, $(scontrol show job "$job" | grep -oP 'Restarts=\d+'), nodes $(scontrol show job "$job" | grep -oP ' NodeList=\K\S+')"
grep -v "^epoch\|^ *File\|^    \|^W1\|^\[W1" job.log | sed 's/^/  | /'
torchrun --nproc-per-node 2 -m aegen train --data photos/ --size 16 --arch mlp --objective vae --batch-size 16 $more --run-dir runs/alone >alone.log 2>&1
python "$here/benchmarks/cluster.py" apart runs/alone runs/faces
