# harbr-router in a container: docker build -t harbr-router .
# The configuration is expected at /etc/harbr-router/config.yml. Mount its folder, not the file: a
# mounted file is not seen to change.
FROM rust:1.95-slim-bookworm AS build
# zlib-ng, which Pingora brings, is built by cmake.
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin harbr-router \
 && install -s target/release/harbr-router /usr/local/bin/harbr-router

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin harbr-router
COPY --from=build /usr/local/bin/harbr-router /usr/local/bin/harbr-router
ENV CONFIG_FILE=/etc/harbr-router/config.yml
USER 10001:10001
# HTTP, databases, admin. An admin listener that is to be reached from outside the container listens
# on 0.0.0.0; /reload and /config still answer loopback peers only.
EXPOSE 8080 9090 9901
# Drains, for as long as `docker stop --time` allows: more than server.drain_timeout_secs.
STOPSIGNAL SIGTERM
# Asks the running process, not the file, which may be edited at any time. On a root file system that is
# read only give it a tmpfs at /tmp, where the process leaves its socket, or name the admin listener: --admin.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["harbr-router", "health"]
ENTRYPOINT ["harbr-router"]
