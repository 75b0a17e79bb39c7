"""What users of Django do, from more threads than the proxy has connections, on connections that persist.

Reached by libpq's variables PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLROOTCERT. Fails by its exit status.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings

CLIENTS, ROUNDS = 16, 6

REACHED = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "postgres",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"],
    "CONN_MAX_AGE": None,
    "CONN_HEALTH_CHECKS": True,
    # It is set when a connection begins, by SELECT set_config.
    "TIME_ZONE": "Europe/Berlin",
    "OPTIONS": {"sslmode": "verify-full", "sslrootcert": os.environ["PGSSLROOTCERT"]},
}
settings.configure(DATABASES={"default": REACHED}, USE_TZ=True, TIME_ZONE="Europe/Berlin", INSTALLED_APPS=["__main__"])
django.setup()

from django.db import IntegrityError, connection, models, transaction  # noqa: E402


class Account(models.Model):
    """Has money."""

    name = models.CharField(max_length=50, unique=True)
    balance = models.IntegerField()
    about = models.JSONField(default=dict)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        """Without a package there is no label."""

        app_label = "proxied"


class Given(Exception):
    """Rolls a block back."""


def give(number: int, to: int) -> None:
    """One from one account to another, each row locked."""
    with transaction.atomic():
        rows = Account.objects.select_for_update().filter(name__in=[f"a{number}", f"a{to}"]).order_by("name")
        found = {row.name: row for row in rows}
        found[f"a{number}"].balance -= 1
        found[f"a{to}"].balance += 1
        for row in found.values():
            row.save()


def client(number: int) -> None:
    """Transactions, rollbacks, savepoints, an error inside atomic, server-side cursors in and out of transactions."""
    assert Account.objects.get(name=f"a{number}").about == {"n": number}
    for turn in range(ROUNDS):
        give(number, (number + turn + 1) % CLIENTS)
        try:
            with transaction.atomic():
                Account.objects.filter(name=f"a{number}").update(balance=0)
                raise Given
        except Given:
            pass
        with transaction.atomic():
            try:
                with transaction.atomic():
                    Account.objects.create(name=f"a{number}", balance=0)
                    raise AssertionError("a name twice")
            except IntegrityError:
                assert Account.objects.filter(name=f"a{number}").exists()
        assert sum(1 for _ in Account.objects.order_by("name").iterator(chunk_size=5)) == CLIENTS
        with transaction.atomic():
            assert sum(1 for _ in Account.objects.order_by("name").iterator(chunk_size=5)) == CLIENTS
        with connection.cursor() as cursor:
            cursor.execute("SHOW timezone")
            assert cursor.fetchone() == ("Europe/Berlin",)


def main() -> None:
    """The sum stays."""
    with connection.schema_editor() as editor:
        editor.create_model(Account)
    try:
        accounts = [Account(name=f"a{number}", balance=100, about={"n": number}) for number in range(CLIENTS)]
        Account.objects.bulk_create(accounts)
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(client, range(CLIENTS)))
        assert Account.objects.aggregate(sum=models.Sum("balance")) == {"sum": 100 * CLIENTS}
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Account)


main()
