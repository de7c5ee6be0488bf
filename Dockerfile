# The library and its examples, for docker-compose.yml.
FROM python:3.12-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY edgeserve edgeserve
RUN pip install --no-cache-dir .
COPY examples examples

# Ports, devices and the system's files are nothing that the examples need.
RUN useradd --create-home edgeserve
USER edgeserve

# What a script prints is seen at once.
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python"]
