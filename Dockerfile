# syntax=docker/dockerfile:1

# The image holds one static binary, the system's CA bundle and empty folders to mount into:
#
#   docker run -p 80:80 -p 443:443 --stop-timeout 30 \
#     -v ./gateways:/etc/portcullis/gateways:ro -v ./certs:/etc/portcullis/certs:ro portcullis
#
# Mounted keys must be readable by user 65532. Ports below 1024 need no capability: container engines
# set net.ipv4.ip_unprivileged_port_start=0. Where one does not, add
# --sysctl net.ipv4.ip_unprivileged_port_start=0, or map ports (PORTCULLIS_PORT_MAP=443=8443).

FROM rust:1.95-slim AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src/
COPY deploy/image-root deploy/
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    deploy/image-root /out

FROM scratch
COPY --from=build --chown=65532:65532 /out/ /
ENV PORTCULLIS_CONFIG=/etc/portcullis/gateways \
    PORTCULLIS_CERTS=/etc/portcullis/certs \
    PORTCULLIS_STATE=/var/lib/portcullis
USER 65532:65532
EXPOSE 80 443 15021 15090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s CMD ["/portcullis", "health"]
ENTRYPOINT ["/portcullis"]
CMD ["run"]
