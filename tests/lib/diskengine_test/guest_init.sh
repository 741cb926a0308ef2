#!/bin/busybox sh
# The guest's first process: mounts, modules, network, then a command loop on the second serial port (guest.py).
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run

while read -r module; do
  insmod "/lib/modules/$module" || echo "guest: could not load $module"
done </lib/modules/order
mount -t configfs configfs /sys/kernel/config 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  ip addr add 10.0.2.15/24 dev eth0
  ip route add default via 10.0.2.2
fi

# Each request is a line "ID BASE64"; its commands run in the background; the answer is a line "ID EXITCODE BASE64".
answer() {
  echo "$2" | base64 -d >"/tmp/command.$1"
  sh "/tmp/command.$1" >"/tmp/output.$1" 2>&1 </dev/null 3>&-
  status=$?
  base64 -w0 <"/tmp/output.$1" >"/tmp/answer.$1"
  until mkdir /tmp/lock 2>/dev/null; do sleep 0.05; done
  { echo -n "$1 $status "; cat "/tmp/answer.$1"; echo; } >&3
  rmdir /tmp/lock
  rm -f "/tmp/command.$1" "/tmp/output.$1" "/tmp/answer.$1"
}

# The loop must never get a SIGCHLD while it reads (busybox would drop the half line it has), so it has no children:
# each job is the child of a subshell that ends at once, and goes to process 1, which only waits.
serve() {
  stty -F /dev/ttyS1 raw -echo
  exec 3<>/dev/ttyS1
  echo "READY $(cut -d' ' -f1 /proc/uptime)" >&3
  while read -r id code <&3; do
    (answer "$id" "$code" &)
  done
}

serve &
while :; do
  wait
  sleep 1
done
