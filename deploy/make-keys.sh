#!/bin/sh
# Makes the keys that docker-compose.yml needs, once. What the server reads (hashes, and its password for PostgreSQL) goes
# to /keys; the keys themselves, and the passwords of Grafana and PostgreSQL, to /secrets, where only their readers look.
# Every file is whole or not there: what an interruption, a full disk or a lost volume left out is made the next time.
set -eu
umask 027
keys=${KEYS_DIRECTORY:-/keys} secrets=${SECRETS_DIRECTORY:-/secrets}

make_key() { # name, keys file
  if [ -s "$secrets/$1.key" ] && grep -qs "^$1:" "$keys/$2"; then return; fi
  kalmagrove key create "$1" >"$keys/.made" 2>"$secrets/.said"
  if [ -f "$keys/$2" ]; then grep -v "^$1:" "$keys/$2" >>"$keys/.made" || [ $? -eq 1 ]; fi
  sed -n 's/^key, shown this once: //p' "$secrets/.said" >"$secrets/.made"
  rm -f "$secrets/.said" "$secrets/$1.key" # from here on the key is made anew unless both files are in their places
  mv "$keys/.made" "$keys/$2"
  mv "$secrets/.made" "$secrets/$1.key"
}

make_password() { # name
  if [ -s "$secrets/$1.password" ]; then return; fi
  python3 -c 'import secrets; print(secrets.token_urlsafe(24))' >"$secrets/.made"
  mv "$secrets/.made" "$secrets/$1.password"
}

make_key client client.keys
make_key metrics client.keys
make_key admin admin.keys
make_password grafana
make_password postgres
umask 077 # PostgreSQL's clients take no password from a file that others may read
printf 'postgres:5432:kalmagrove:kalmagrove:%s\n' "$(cat "$secrets/postgres.password")" >"$keys/.made"
mv "$keys/.made" "$keys/pgpass"
