# Two images: `docker build --target gateway .` and `docker build --target launcher .`.
# Both are what pip installs from this folder, with the versions of constraints.txt.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# With a C compiler the gateway's hot modules are compiled at installation; 0 leaves that out.
ARG COMPILE=1
RUN if [ "$COMPILE" = 1 ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
ENV MIG_GATEWAY_COMPILE=${COMPILE} PIP_CACHE_DIR=/pip-cache PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
# pip stays here: nothing is to be installed into what runs.
RUN python -m venv --without-pip /opt/mig-gateway
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/pip-cache \
    pip wheel --no-deps --constraint constraints.txt --wheel-dir /wheels . \
    && pip --python /opt/mig-gateway/bin/python install --constraint constraints.txt /wheels/*.whl

FROM build AS build-launcher
RUN --mount=type=cache,target=/pip-cache \
    pip --python /opt/mig-gateway/bin/python install --constraint constraints.txt \
    "$(echo /wheels/*.whl)[docker]"

FROM ${BASE} AS base
# /mig/run is the folder of the inventory, which both share.
ENV PATH=/opt/mig-gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
RUN mkdir -p /mig/run /mig/state && chown 10001:10001 /mig/state
WORKDIR /mig

FROM base AS gateway
COPY --from=build /opt/mig-gateway /opt/mig-gateway
USER 10001:10001
EXPOSE 50050 9001
ENTRYPOINT ["mig-gateway"]
CMD ["serve", "--config", "/etc/mig-gateway/gateway.yaml"]

# As root: the Docker socket is root's, and so is cutting a GPU.
FROM base AS launcher
COPY --from=build-launcher /opt/mig-gateway /opt/mig-gateway
ENTRYPOINT ["mig-launcher"]
CMD ["up", "--config", "/etc/mig-gateway/launcher.yaml"]
