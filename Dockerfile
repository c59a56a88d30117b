# The daemon in a small image that runs without root:
#
#   docker build -t msrp-relay .
#   docker run -v "$PWD/relay:/etc/msrp-relay:ro" -p 2855:2855 msrp-relay
#
# The configuration is /etc/msrp-relay/relay.yaml; what it writes goes to /var/lib/msrp-relay. examples/kubernetes has
# manifests that use it.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# No path of the build in the program, so that it is the same wherever it is built.
ENV RUSTFLAGS="--remap-path-prefix=/src=/msrp-relay --remap-path-prefix=/usr/local/cargo=/cargo" \
    CFLAGS="-ffile-prefix-map=/src=/msrp-relay -ffile-prefix-map=/usr/local/cargo=/cargo" \
    CARGO_INCREMENTAL=0
RUN cargo build --release --locked -p relay && strip target/release/msrp-relay

FROM debian:bookworm-slim
# The authorities of the system, by which other relays are verified unless `ca_list` names others.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 msrp-relay \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/msrp-relay \
        --shell /usr/sbin/nologin msrp-relay \
    && install -d -o msrp-relay -g msrp-relay -m 0750 /var/lib/msrp-relay
COPY --from=build /src/target/release/msrp-relay /usr/bin/msrp-relay
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/msrp-relay/
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/msrp-relay
EXPOSE 2855
# SIGTERM lets messages under way finish, for up to `timeouts.drain_timeout`: give `docker stop --time` more than that.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/msrp-relay"]
CMD ["run", "--config", "/etc/msrp-relay/relay.yaml"]
