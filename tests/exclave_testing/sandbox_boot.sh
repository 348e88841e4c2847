#!/bin/sh
# The parts of sandbox.py that run before there is a sandbox. Two verbs:
#   join GROUP... -- COMMAND...    enter cgroups, then become the command
#   boot TREE UPPER [OPTION...]    as first process of fresh namespaces: build the root, become systemd
#     UPPER is `tmpfs:SIZE:FOLDER` (changes live in memory) or a folder (changes survive a reboot)
#     --cgroup NAME OPTIONS        mount one hierarchy; empty NAME: the only one (pure v2)
#     --bind HOST INSIDE           read-only
#     --group FOLDER               where the box's root group is seen on the host
# Everything happens in this mount namespace and goes with its last process.
set -eu

join() {
  while [ "$1" != -- ]; do
    echo $$ >"$1/cgroup.procs"
    shift
  done
  shift
  exec "$@"
}

overlay() { # TREE UPPER -> the current folder is the new root
  case $2 in
  tmpfs:*)
    size=${2#tmpfs:}
    scratch=${size#*:}
    mount -t tmpfs -o "mode=755,size=${size%%:*}" tmpfs "$scratch"
    ;;
  *) scratch=$2 ;;
  esac
  mkdir -p "$scratch/upper" "$scratch/work" "$scratch/root"
  mount -t overlay -o "lowerdir=$1,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
  cd "$scratch/root"
}

kernel_views() {
  mount -t proc -o nosuid,nodev,noexec proc proc
  # Root in here is root: what would change the machine itself is out of reach.
  for path in proc/sys proc/sysrq-trigger proc/irq proc/bus; do
    [ -e $path ] || continue
    mount --bind $path $path
    mount -o remount,bind,ro,nosuid,nodev,noexec $path
  done
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
  mount -t tmpfs -o mode=755,nosuid,nodev,size=20% tmpfs run
}

devices() {
  mount -t tmpfs -o mode=755,nosuid,size=4m tmpfs dev
  # The console is a null device: nobody is there to read it.
  while read -r name major minor; do
    mknod -m 666 "dev/$name" c "$major" "$minor"
  done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
console 1 3
NODES
  mkdir dev/pts dev/shm
  mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
  mount -t tmpfs -o nosuid,nodev,mode=1777,size=256m tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
}

cgroup() { # NAME OPTIONS
  if [ -z "$1" ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
    return
  fi
  # The first of several: they stand side by side on a tmpfs.
  mountpoint -q sys/fs/cgroup || mount -t tmpfs -o mode=755,size=4m tmpfs sys/fs/cgroup
  mkdir "sys/fs/cgroup/$1"
  if [ -z "$2" ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "sys/fs/cgroup/$1"
  else
    mount -t cgroup -o "nosuid,nodev,noexec,$2" cgroup "sys/fs/cgroup/$1"
  fi
}

bind() { # HOST INSIDE
  if [ -d "$1" ]; then
    mkdir -p ".$2"
  else
    mkdir -p "$(dirname ".$2")"
    : >>".$2"
  fi
  mount --bind "$1" ".$2"
  mount -o remount,bind,ro ".$2"
}

boot() { # TREE UPPER [OPTION...]
  overlay "$1" "$2"
  shift 2
  kernel_views
  devices
  while [ $# -gt 0 ]; do
    option=$1
    shift
    # One command a line: `set -e` does not look into `a && b`.
    case $option in
    --cgroup)
      cgroup "$1" "$2"
      shift 2
      ;;
    --bind)
      bind "$1" "$2"
      shift 2
      ;;
    --group)
      # systemd takes the group it is born in for the root of all; 0 is whoever writes.
      echo 0 >"$1/cgroup.procs"
      shift
      ;;
    *)
      echo "unknown option: $option" >&2
      exit 2
      ;;
    esac
  done
  # No terminal, and no chores that start by themselves in the middle of a test.
  mkdir -p run/systemd/system run/old
  for unit in console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
    ln -s /dev/null "run/systemd/system/$unit"
  done
  pivot_root . run/old
  # What a container manager takes away too: modules, raw hardware, the clock, the kernel log.
  exec env -i container=exclave-box SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /bin/sh -euc '
      umount -l /run/old
      rmdir /run/old
      ip link set lo up
      # Open files as on a machine, where we may, not as whoever runs the tests has them.
      ulimit -Sn 1024
      ulimit -Hn 524288 2>/dev/null || :
      mount --make-rshared /
      exec setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time,-syslog,-wake_alarm,-sys_pacct \
        /lib/systemd/systemd systemd.show_status=no SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1'
}

verb=$1
shift
"$verb" "$@"
