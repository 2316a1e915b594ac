# Makes another machine of this guest. Arguments: name, machine id, random seed, and a word for each interface: the hardware address that it
# had, the one it has, its address, its gateway if it is the way out, and its MTU, with commas between.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=$1 id=$2 seed=$3
shift 3
echo "$seed" >/dev/urandom
[ -s /etc/machine-id ] && echo "$id" >/etc/machine-id
for place; do
    IFS=, read -r before mac address gateway mtu <<END
$place
END
    device=
    for candidate in /sys/class/net/*; do
        [ -e "$candidate/device" ] && [ "$(cat "$candidate/address")" = "$before" ] && device=${candidate##*/}
    done
    [ -n "$device" ] || continue
    # The old addresses are another machine's.
    ip link set dev "$device" down
    ip addr flush dev "$device"
    ip link set dev "$device" address "$mac"
    ip link set dev "$device" mtu "$mtu"
    [ -x /etc/yun/identity ] && continue
    ip link set dev "$device" up
    ip addr add "$address" dev "$device"
    if [ -n "$gateway" ]; then
        ip route add default via "$gateway" dev "$device"
        grep -q '^nameserver' /etc/resolv.conf && sed -i "s/^nameserver .*/nameserver $gateway/" /etc/resolv.conf
    fi
done
[ -x /etc/yun/identity ] && exec /etc/yun/identity
hostname "$name"
echo "$name" >/etc/hostname
sed -i "s/^127\.0\.1\.1.*/127.0.1.1 $name/" /etc/hosts
# Keys that a twin has are no keys.
if ls /etc/ssh/ssh_host_* >/dev/null 2>&1; then
    rm -f /etc/ssh/ssh_host_*
    ssh-keygen -A >/dev/null
    systemctl try-restart ssh sshd >/dev/null 2>&1
fi
exit 0
