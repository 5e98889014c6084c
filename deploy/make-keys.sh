#!/bin/sh
# Makes the keys that docker-compose.yml needs, once. What the server reads (hashes, and its password for PostgreSQL) goes
# to /keys; the keys themselves, and the passwords of Grafana and PostgreSQL, to /secrets, where only their readers look.
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
make_password() { # name
  [ -s "/secrets/$1.password" ] || python3 -c 'import secrets; print(secrets.token_urlsafe(24))' >"/secrets/$1.password"
}

make_password grafana
make_password postgres
umask 077 # PostgreSQL's clients take no password from a file that others may read
printf 'postgres:5432:kalmagrove:kalmagrove:%s\n' "$(cat /secrets/postgres.password)" >/keys/pgpass
