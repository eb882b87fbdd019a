# The image of one server process; compose.yaml says how several of them work together.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 DATA_DIR=/data
WORKDIR /srv/llmchat

COPY requirements.txt .
RUN python -m pip install --require-hashes -r requirements.txt

COPY . .
# Secrets are made where DATA_DIR is: here they are thrown away, so that no image holds any.
RUN DATA_DIR="$(mktemp -d)" python manage.py collectstatic --no-input --verbosity 0 \
    && useradd --system --home-dir /data llmchat \
    && install --directory --owner llmchat --mode 700 /data
USER llmchat
VOLUME /data
EXPOSE 8000

# In the form of a list, so that SIGTERM reaches the server and no shell in between.
CMD ["uvicorn", "llmchat.asgi:application", "--host", "0.0.0.0", "--port", "8000", \
     "--no-access-log", "--timeout-graceful-shutdown", "5"]
