# Two images: `changeover` (the default target) and `placement`, a Placement of one's own for
# clouds that are simulated. Everything is installed from lock files with hashes; nothing is
# compiled, nothing runs as root.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --user-group --home-dir /var/lib/changeover changeover \
    && install --directory --owner=changeover --group=changeover --mode=0700 /var/lib/changeover

FROM base AS build-changeover
RUN python -m venv /opt/changeover
WORKDIR /build
COPY requirements.lock ./
RUN /opt/changeover/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
COPY . .
RUN /opt/changeover/bin/pip install --no-deps --no-build-isolation .

FROM base AS build-placement
RUN python -m venv /opt/placement
COPY requirements-placement.lock ./
RUN /opt/placement/bin/pip install --require-hashes --only-binary :all: \
    -r requirements-placement.lock

FROM base AS placement
COPY --from=build-placement /opt/placement /opt/placement
ENV PATH=/opt/placement/bin:$PATH
USER 10001:10001
EXPOSE 8778
CMD ["waitress-serve", "--listen=*:8778", "--threads=8", "placement.wsgi.api:application"]

FROM base AS changeover
COPY --from=build-changeover /opt/changeover /opt/changeover
ENV PATH=/opt/changeover/bin:$PATH \
    CHANGEOVER_STATE_DIR=/var/lib/changeover
USER 10001:10001
WORKDIR /var/lib/changeover
VOLUME /var/lib/changeover
ENTRYPOINT ["changeover"]
CMD ["up"]
