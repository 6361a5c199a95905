#!/bin/sh
# Installs Rill from the folder that holds this script. Asks nothing; may be run again.
#
#   sudo ./install.sh          installs on this machine and starts the service
#   ./install.sh ROOT          installs into the file system below ROOT and starts nothing
set -eu
umask 022

root=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "error: run as root: sudo $0" >&2
    exit 1
fi
if [ -n "$root" ] && [ ! -d "$root" ]; then
    echo "error: no folder $root" >&2
    exit 1
fi
sha256sum --check --quiet SHA256SUMS || {
    echo "error: this copy is damaged: copy it again" >&2
    exit 1
}

# Copies a file so that its place has the old or the new one whole, whatever happens.
put() {
    mkdir -p "$(dirname "$root$2")"
    cp "$1" "$root$2.new"
    chmod "$3" "$root$2.new"
    sync "$root$2.new"
    mv "$root$2.new" "$root$2"
}

put model.rill /opt/rill/model.rill 644
put bin/rill /opt/rill/bin/rill 755
put README.txt /opt/rill/README.txt 644
for file in licences/*; do
    put "$file" "/opt/rill/$file" 644
done
# What the user changed stays.
[ -e "$root/etc/rill/rill.conf" ] || put rill.conf /etc/rill/rill.conf 644
put rill.service /etc/systemd/system/rill.service 644

if [ -n "$root" ]; then
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../rill.service "$root/etc/systemd/system/multi-user.target.wants/rill.service"
    echo "installed below $root"
elif [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet rill.service
    systemctl restart rill.service
    echo "installed and running: Ctrl-Alt-F8 shows it"
else
    echo "installed; this system has no systemd: start /opt/rill/bin/rill chat -m /opt/rill/model.rill"
fi
