# Reads a network-config (cloud-init, version 2), and prints each interface as one line of assignments of the shell, the first one first.
function value(line) { sub(/^[^:]*: */, "", line); gsub(/["'\[\],\r]/, " ", line); gsub(/^ +| +$/, "", line); return line }
function safe(text) { gsub(/[^0-9A-Za-z.:\/_ -]/, "", text); return text }
/^ *#/ { next }
/^ethernets:/ { devices = 1; depth = 0; next }
devices && /^ +[0-9A-Za-z_.-]+: *\r?$/ {
    match($0, /^ +/)
    if (!depth) depth = RLENGTH
    if (RLENGTH == depth) { if (begun) show(); begun = 1; next }
}
/^ *macaddress:/ { mac = tolower(value($0)); next }
/^ *mtu:/ { mtu = value($0); next }
/^ *gateway4:/ { gateway = value($0); next }
/^ *- to:/ { to = value($0); next }
/^ *via:/ { if (to == "default" || to == "0.0.0.0/0") gateway = value($0); next }
/^ *nameservers:/ { inside = 1; list = ""; next }
/^ *addresses:/ { list = inside ? "resolver" : "address"; found[list] = found[list] " " value($0); next }
/^ *search:/ { list = "search"; found[list] = found[list] " " value($0); next }
/^ *- / { if (list != "") { sub(/^ *- */, ""); gsub(/["'\r]/, ""); found[list] = found[list] " " $0 } next }
/^ *[a-z0-9-]*:/ { list = ""; if ($0 !~ /^ *(match|routes|dhcp4|dhcp6|set-name):/) inside = 0 }
END { show() }
function show() {
    printf "mac='%s' mtu='%s' gateway='%s' address='%s' resolver='%s' search='%s'\n", safe(mac), safe(mtu), safe(gateway), \
        trimmed(found["address"]), safe(found["resolver"]), safe(squeezed(found["search"]))
    mac = mtu = gateway = to = list = inside = found["address"] = found["resolver"] = found["search"] = ""
}
function squeezed(text) { gsub(/ +/, " ", text); sub(/ $/, "", text); return text }
function trimmed(text) { text = squeezed(safe(text)); sub(/^ /, "", text); return text }
