FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
ENV HNSWLIB_NO_NATIVE=1
RUN python -m venv /opt/memfast && /opt/memfast/bin/pip install --no-cache-dir "/source[hnsw,neo4j,otel,redis]"

FROM python:3.12-slim-bookworm
COPY --from=build /opt/memfast /opt/memfast
ENV PATH=/opt/memfast/bin:$PATH MEMFAST_NATIVE=c
RUN useradd --system --home-dir /var/lib/memfast --create-home memfast
USER memfast
VOLUME /var/lib/memfast
EXPOSE 8077
CMD ["memfast", "serve"]
