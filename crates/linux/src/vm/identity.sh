# Makes another machine of this guest. Arguments: name, machine id (- if it stays the machine that it was), random seed, and a word for each
# interface: the hardware address that it had, the one it has, its address, its gateway if it is the way out, and its MTU, with commas between.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=$1 id=$2 seed=$3
shift 3
# Random numbers of its own, at once: the kernel takes what is written into its next seed, which it may make a minute later. The program is
# ioctl(open("/dev/urandom", O_WRONLY), RNDRESEEDCRNG), for amd64; a guest that has a clock of generations (vmgenid) needs neither.
echo "$seed" >/dev/urandom
{
    printf '\177\105\114\106\002\001\001\000\000\000\000\000\000\000\000\000\002\000\076\000\001\000\000\000\170\000\100\000\000\000\000\000'
    printf '\100\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\100\000\070\000\001\000\000\000\000\000\000\000'
    printf '\001\000\000\000\005\000\000\000\000\000\000\000\000\000\000\000\000\000\100\000\000\000\000\000\000\000\100\000\000\000\000\000'
    printf '\261\000\000\000\000\000\000\000\261\000\000\000\000\000\000\000\000\020\000\000\000\000\000\000\270\002\000\000\000\110\215\075'
    printf '\040\000\000\000\276\001\000\000\000\017\005\211\307\276\007\122\000\000\061\322\270\020\000\000\000\017\005\211\307\270\074\000'
    printf '\000\000\017\005\057\144\145\166\057\165\162\141\156\144\157\155\000'
} >/root/.yun-reseed
chmod 700 /root/.yun-reseed
/root/.yun-reseed
rm -f /root/.yun-reseed
[ "$id" = - ] && export same=yes
[ -z "$same" ] && [ -s /etc/machine-id ] && echo "$id" >/etc/machine-id
# Who it is, before anybody can reach it.
if [ -z "$same" ] && [ ! -x /etc/yun/identity ]; then
    hostname "$name"
    echo "$name" >/etc/hostname
    sed -i "s/^127\.0\.1\.1.*/127.0.1.1 $name/" /etc/hosts
    # Keys that a twin has are no keys.
    if ls /etc/ssh/ssh_host_* >/dev/null 2>&1; then
        rm -f /etc/ssh/ssh_host_*
        ssh-keygen -A >/dev/null
        systemctl try-restart ssh sshd >/dev/null 2>&1
    fi
fi
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
exit 0
