"""The driver's own cursor in a transaction: what SQLAlchemy has no words for, such as COPY."""

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection


async def cursor_of(connection: AsyncConnection) -> psycopg.AsyncCursor:
    """A cursor on the connection to Postgres below CONNECTION, in its transaction."""
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, psycopg.AsyncConnection):
        raise TypeError(f"the driver is {type(driver)}; its cursors are not those of psycopg")
    return driver.cursor()
