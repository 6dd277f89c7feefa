#!/bin/sh
# What `make install` and `make uninstall` do; the variables are the Makefile's.
#
# - Each installation has a folder of its own, RELEASES/MOMENT, and one link, BIN/rekeyd, says which is current. So
#   an upgrade is one rename, and a daemon that runs keeps the files that it was started from until it is restarted.
# - Settings that are there are never touched, neither by an upgrade nor by an uninstall.
# - Only files are written, and the account that owns them is made. What systemctl has to do is said at the end.
# - With DESTDIR nothing outside of it is touched, and nothing that is written names it.
set -eu
umask 022

fail() {
  echo "$1" >&2
  exit 1
}

for place in "$prefix" "$sysconfdir" "$systemddir" "${DESTDIR:-/}"; do
  case $place in
    '' | [!/]* | *[!A-Za-z0-9/._+@~-]*) fail "'$place' must be an absolute path of letters, digits and /._+@~-" ;;
  esac
done
DESTDIR=${DESTDIR%/}
LIB=$prefix/lib/rekeyd
RELEASES=$LIB/releases
DOC=$prefix/share/doc/rekeyd
SETTINGS=$sysconfdir/rekeyd/rekeyd.yaml

# Whether a process has files below this folder in memory (proc(5), maps): a daemon has, for its libraries. In a
# container the same path is another folder.
in_use() {
  for maps in $(grep -lsF "$1/" /proc/[0-9]*/maps); do
    [ ! "${maps%/maps}/root$1" -ef "$1" ] || return 0
  done
  return 1
}

put() { # FILE FOLDER [MODE]
  install -D -m "${3:-644}" "$1" "$DESTDIR$2/${1##*/}"
}

# The units as they are, or for another prefix or place of the settings.
put_unit() { # FILE FOLDER
  put "$1" "$2"
  sed -i "s|/usr/local/|$prefix/|g; s|/etc/rekeyd|$sysconfdir/rekeyd|g" "$DESTDIR$2/${1##*/}"
}

each_unit() { # COMMAND, which is given the file and its folder
  for file in systemd/*.service systemd/*.socket; do
    [ ! -f "$file" ] || "$1" "$file" "$systemddir/systemd/system"
  done
  for kind in sysusers.d tmpfiles.d; do
    for file in systemd/"$kind"/*.conf; do
      [ ! -f "$file" ] || "$1" "$file" "$systemddir/$kind"
    done
  done
}

put_release() {
  release=$RELEASES/$(date -u +%Y%m%dT%H%M%SZ)
  staged=$DESTDIR$release
  "$PYTHON" -m venv --without-pip "$staged"
  $PIP --python "$staged/bin/python" install --quiet --disable-pip-version-check --no-compile .
  if [ -n "$DESTDIR" ]; then
    grep -rlIF "$staged" "$staged" | xargs -r sed -i "s|$staged|$release|g"
  fi
  "$staged/bin/python" -m compileall -q -s "$DESTDIR" -p / "$staged/lib"
  mkdir -p "$DESTDIR$prefix/bin"
  ln -sfn "../lib/rekeyd/releases/${release##*/}/bin/rekeyd" "$DESTDIR$prefix/bin/.rekeyd.new"
  mv -fT "$DESTDIR$prefix/bin/.rekeyd.new" "$DESTDIR$prefix/bin/rekeyd"
}

drop_old_releases() {
  for old in "$DESTDIR$RELEASES"/*; do
    [ "$old" = "$staged" ] || in_use "$old" || rm -rf "$old"
  done
}

put_documents() {
  rm -rf "$DESTDIR${DOC:?}"
  for file in README.md CHANGELOG.md LICENSE $(find etc systemd -type f); do
    folder=$DOC/$(dirname "$file")
    put "$file" "${folder%/.}"
  done
}

on_this_system() {
  [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ]
}

# Below DESTDIR that's the package's business, or that of the next boot.
make_account() {
  if ! on_this_system || ! command -v systemd-sysusers >/dev/null; then
    return
  fi
  for declared in "$systemddir"/sysusers.d/rekeyd*.conf; do
    [ ! -f "$declared" ] || systemd-sysusers "$declared"
  done
  for declared in "$systemddir"/tmpfiles.d/rekeyd*.conf; do
    [ ! -f "$declared" ] || systemd-tmpfiles --create "$declared"
  done
}

# They hold keys: the service may read them, through its group, and nobody but root may write.
put_settings() {
  if [ ! -d "$DESTDIR${SETTINGS%/*}" ]; then
    install -d -m 750 "$DESTDIR${SETTINGS%/*}"
    give_to_group "${SETTINGS%/*}"
  fi
  put etc/rekeyd.yaml "${SETTINGS%/*}" 640
  give_to_group "$SETTINGS"
}

give_to_group() {
  if on_this_system && getent group rekeyd >/dev/null; then
    chgrp rekeyd "$1"
  fi
}

warn_of_hidden_python() {
  case $("$PYTHON" -c 'import sys; print(sys.base_prefix)') in
    /root/* | /home/* | /run/user/*)
      echo "warning: the unit can't see $PYTHON, which lies in somebody's home: make install PYTHON=/usr/bin/python3" >&2
      ;;
  esac
}

warn_of_older_unit() {
  older=$sysconfdir/systemd/system/rekeyd.service
  if [ -f "$DESTDIR$older" ]; then
    echo "warning: systemd takes $older before the unit that is installed: remove it, or make it a drop-in" >&2
  fi
}

install_all() {
  [ ! -e "$DESTDIR$SETTINGS" ] && [ ! -L "$DESTDIR$SETTINGS" ] && first=yes || first=no
  warn_of_hidden_python
  put_release
  drop_old_releases
  each_unit put_unit
  put etc/certbot/certbot-deploy-hook "$LIB" 755
  put_documents
  make_account
  [ "$first" = no ] || put_settings
  warn_of_older_unit
  echo "rekeyd is installed: $DESTDIR$prefix/bin/rekeyd"
  if [ "$first" = yes ]; then
    echo "next: set what is marked SET THIS in $SETTINGS, then"
    echo "  rekeyd check -c $SETTINGS && systemctl daemon-reload && systemctl enable --now rekeyd"
  else
    echo "$SETTINGS is as it was; what this version ships is $DOC/etc/rekeyd.yaml"
    echo "next: systemctl daemon-reload && systemctl try-restart rekeyd"
  fi
}

uninstall_all() {
  ! in_use "$DESTDIR$LIB" || fail "rekeyd is running; first: systemctl disable --now rekeyd.service rekeyd.socket"
  each_unit take_away
  case $(readlink "$DESTDIR$prefix/bin/rekeyd") in
    ../lib/rekeyd/releases/*) rm "$DESTDIR$prefix/bin/rekeyd" ;;
  esac
  rm -rf "$DESTDIR${LIB:?}" "$DESTDIR${DOC:?}"
  echo "rekeyd is gone, but for ${SETTINGS%/*}, /var/lib/rekeyd, /var/log/rekeyd and its account"
  echo "next: systemctl daemon-reload"
}

take_away() { # FILE FOLDER
  rm -f "$DESTDIR$2/${1##*/}"
}

case ${1-} in
  install) install_all ;;
  uninstall) uninstall_all ;;
  *) fail "usage: make install, or make uninstall" ;;
esac
