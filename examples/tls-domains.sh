#!/bin/sh
# Makes the certificates that tls-domains.yaml names, with openssl, for trying out:
#
#   sh examples/tls-domains.sh            # into examples/tls
#   sh examples/tls-domains.sh DIRECTORY
#
# What is there already is made anew. Nothing in there is for service: the authority's key lies beside it.
set -eu

dir=${1:-$(dirname "$0")/tls}
mkdir -p "$dir/authorities" "$dir/revoked"
cd "$dir"
# Keys do not belong into a repository.
echo '*' > .gitignore

# A key that only its owner reads, and a certificate: name, subject alternative names, signer.
umask 077
request() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 "$@" 2> openssl.log ||
        { cat openssl.log >&2; exit 1; }
    rm -f openssl.log
}
authority() {
    request -subj "/O=Example/CN=$2" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$1.key" -out "$1.pem"
}
certificate() {
    request -subj "/O=Example/CN=$1" -addext "subjectAltName=$2" -addext "basicConstraints=critical,CA:FALSE" \
        -CA "$3.pem" -CAkey "$3.key" -keyout "$1.key" -out "$1.crt"
}

# Clients trust the first authority, relays the second one too.
authority ca "Example clients' CA"
authority relay-ca "Example relays' CA"
cp relay-ca.pem authorities/

# What this relay shows: one certificate for each of the domains it serves, one for those who name none.
certificate atlanta "DNS:atlanta.example.com,DNS:*.atlanta.example.com" ca
certificate biloxi "DNS:biloxi.example.com" ca
certificate fallback "DNS:localhost,IP:127.0.0.1" ca
# What it shows to other relays, and they to it. Both names resolve to this machine.
certificate relay "DNS:localhost,IP:127.0.0.2" relay-ca
certificate partner "DNS:relay.partner.example.net" relay-ca
# One that was lost, and revoked.
certificate lost "DNS:lost.partner.example.net" relay-ca

# The revocation list. `openssl ca` wants its book-keeping; nothing of it is needed afterwards.
cat > ca.cnf <<END
[ca]
default_ca = relays
[relays]
database = index.txt
default_md = sha256
default_crl_days = 365
# With a number and extensions: without them it is a CRL of version 1, which no longer counts (RFC 5280 §5.1.2.1).
crlnumber = crlnumber
crl_extensions = extensions
[extensions]
authorityKeyIdentifier = keyid:always
END
: > index.txt
echo 01 > crlnumber
openssl ca -config ca.cnf -cert relay-ca.pem -keyfile relay-ca.key -revoke lost.crt 2> /dev/null
openssl ca -config ca.cnf -cert relay-ca.pem -keyfile relay-ca.key -gencrl -out revoked/relay-ca.pem 2> /dev/null
rm -f ca.cnf index.txt* crlnumber*

echo "certificates are in $(pwd)"
