"""The reports on Airflow: one task that calls the same command as cron and systemd do.

Put this file into Airflow's dags folder. The schedule stays in reports/schedule.toml: Airflow
only looks, as often as said below, what is due there. Its retries, alerts and logs come on top.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id="smartcity_reports",
    description="Make whatever reports are due",
    schedule=timedelta(minutes=5),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # the command itself catches up with what was missed
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
) as dag:
    BashOperator(
        task_id="report_due",
        bash_command="/opt/smartcity/.venv/bin/smartcity report due",
        cwd="/opt/smartcity",
        execution_timeout=timedelta(hours=4),
    )
