#!/bin/sh
# Two roles with a database each: Dagster's history and MLflow's runs. Neither can read the other.
# The image of PostgreSQL runs it once, on an empty volume; by hand: as a superuser, with psql's
# PGHOST and PGPORT set. Passwords come from the environment and reach psql there, not as arguments.
set -eu
: "${DAGSTER_PG_PASSWORD:?}" "${MLFLOW_PG_PASSWORD:?}"
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
-- Passwords stand in these statements: keep them out of the server's log.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
\getenv dagster_password DAGSTER_PG_PASSWORD
\getenv mlflow_password MLFLOW_PG_PASSWORD
CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE dagster OWNER dagster;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE dagster FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
SQL
