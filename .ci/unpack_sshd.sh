#!/bin/sh
# Unpack an OpenSSH server into FOLDER, for the tests of --remote: nothing is installed, no service
# starts, no root is needed. Half a megabyte of packages, and apt's lists (about 20 MB), which are
# fetched into a temporary folder and deleted.
#   unpack_sshd.sh FOLDER
set -eu
folder=$1
for program in apt-get dpkg ldd; do
  command -v "$program" > /dev/null || { echo "there is no $program here" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/unpacked"
own="-qq -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=$(id -un)"
# shellcheck disable=SC2086  # several words are meant
apt-get $own update
# libwrap0 is the one library of sshd that ssh does not need, too. As root, sshd looks for a user
# of its own, whom libnss-wrapper lets it find in a file instead of /etc/passwd.
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get $own download openssh-server libwrap0 libnss-wrapper)
for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/unpacked"; done
missing=$(LD_LIBRARY_PATH=$(echo "$work"/unpacked/usr/lib/*-linux-gnu) ldd "$work/unpacked/usr/sbin/sshd" |
  grep "not found" || true)
if [ -n "$missing" ]; then
  echo "the unpacked sshd lacks libraries of this system: $missing" >&2
  exit 1
fi
rm -rf "$folder"
mv "$work/unpacked" "$folder"
