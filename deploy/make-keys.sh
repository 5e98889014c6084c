#!/bin/sh
# Makes the keys that docker-compose.yml needs, once. What the server reads (hashes) goes to /keys; the keys themselves,
# and Grafana's password, to /secrets, where only their readers look.
set -eu
umask 027

make_key() { # name, keys file
  if [ ! -s "/secrets/$1.key" ]; then
    kalmagrove key create "$1" 2>/tmp/said >>"/keys/$2"
    sed -n 's/^key, shown this once: //p' /tmp/said >"/secrets/$1.key"
    rm /tmp/said
  fi
}

make_key client client.keys
make_key metrics client.keys
make_key admin admin.keys
[ -s /secrets/grafana.password ] || python3 -c 'import secrets; print(secrets.token_urlsafe(24))' >/secrets/grafana.password
