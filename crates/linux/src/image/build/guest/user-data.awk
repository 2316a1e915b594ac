# The part of cloud-config that this guest knows: SSH keys and commands, as lists with one item a line.
function item(line) {
    sub(/^ *- */, "", line)
    sub(/\r$/, "", line)
    if (line ~ /^".*"$/) { line = substr(line, 2, length(line) - 2); gsub(/\\"/, "\"", line); gsub(/\\\\/, "\\", line) }
    else if (line ~ /^'.*'$/) { line = substr(line, 2, length(line) - 2); gsub(/''/, "'", line) }
    return line
}
/^ *#/ || /^[ \r]*$/ { next }
/^ *(ssh_authorized_keys|ssh-authorized-keys|public-keys):/ { list = "keys"; next }
/^(runcmd|bootcmd):/ { list = "commands"; next }
list != "" && /^ *- / {
    line = item($0)
    if (list == "commands" && line ~ /^\[.*\]$/) { line = substr(line, 2, length(line) - 2); gsub(/, */, " ", line) }
    if (list == want) print line
    next
}
/^[^ -]/ {
    list = ""
    known = $0 ~ /^(hostname|local-hostname|instance-id|disable_root|ssh_pwauth|fqdn|manage_etc_hosts|preserve_hostname):/
    if (want == "unknown" && !known) { sub(/:.*/, ""); print }
}
