//! A table: SQLite, PostgreSQL, MySQL or MariaDB, with one row for each session.
//!
//! Each lot of records is one transaction. A record replaces the row of the same `id`: so what is written again after a
//! broken connection stands there once, and the last record of a session takes the place of its interim ones.
//!
//! There is one connection; it is opened when it is needed, and anew after a failure. A lot that takes longer than
//! `timeout` is tried again with half as many records, so that a slow network gets through in the end.
//!
//! In SQLite the table is made where there is none, and gets the columns it lacks. Elsewhere it belongs to the database's
//! administrator: `docs/records.md` has the statements.

use std::fmt::Display;
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use tokio::time::timeout;

use self::sql::Value;
use super::record::SessionRecord;
use super::writer::{Failure, Sink, Taken};
use crate::config::{ConnectOptions, DatabaseKind, RecordDatabase};

mod sql;

/// The most records in one transaction.
const MAX_LOT: usize = 256;

/// The table.
#[derive(Debug)]
pub(super) struct DatabaseSink {
    settings: RecordDatabase,
    insert: String,
    connection: Option<Link>,
    /// How many records are in a transaction for now.
    lot: usize,
}

#[derive(Debug)]
enum Link {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

/// A lot that was not written.
#[derive(Debug)]
enum Broken {
    /// For a reason that is not its own.
    Away(sqlx::Error),
    /// Since the table does not take this record of it.
    At(usize, sqlx::Error),
}

impl From<sqlx::Error> for Broken {
    fn from(error: sqlx::Error) -> Self {
        Self::Away(error)
    }
}

/// Writes a lot over a connection. The same for each database: sqlx has types of its own for each.
macro_rules! in_transaction {
    ($link:expr, $insert:expr, $kind:expr, $lot:expr) => {{
        let mut transaction = $link.begin().await?;
        for (at, record) in $lot.iter().enumerate() {
            let query =
                sql::values($kind, record).into_iter().fold(
                    sqlx::query($insert),
                    |query, value| match value {
                        Value::Text(text) => query.bind(text),
                        Value::Maybe(text) => query.bind(text),
                        Value::Count(count) => query.bind(count),
                        Value::Real(real) => query.bind(real),
                        Value::Truth(truth) => query.bind(truth),
                    },
                );
            if let Err(error) = query.execute(&mut *transaction).await {
                let is_its_own = sql::is_about_the_values($kind, &error);
                // If that fails, the connection is of no use, which the next attempt finds.
                let _ = transaction.rollback().await;
                return Err(if is_its_own { Broken::At(at, error) } else { Broken::Away(error) });
            }
        }
        Ok(transaction.commit().await?)
    }};
}

impl DatabaseSink {
    pub(super) fn new(settings: RecordDatabase) -> Self {
        let insert = sql::insert(settings.url.kind(), &settings.table);
        Self { settings, insert, connection: None, lot: MAX_LOT }
    }

    fn why(&self, error: &dyn Display) -> String {
        format!("{}: {error}", self.settings.url)
    }

    fn took_too_long(&self) -> String {
        self.why(&format_args!("no answer in {:?}", self.settings.timeout))
    }

    /// Connects, and looks whether the table is as it should be.
    async fn connect(&self) -> sqlx::Result<Link> {
        let table = &self.settings.table;
        let probe = sql::probe(self.settings.url.kind(), table);
        Ok(match self.settings.url.options() {
            ConnectOptions::Sqlite(options) => {
                let mut link = SqliteConnection::connect_with(&options).await?;
                sqlx::query(&sql::create(table)).execute(&mut link).await?;
                let there: Vec<String> =
                    sqlx::query_scalar(&sql::columns_of(table)).fetch_all(&mut link).await?;
                for statement in sql::add_missing(table, &there) {
                    sqlx::query(&statement).execute(&mut link).await?;
                }
                sqlx::query(&probe).execute(&mut link).await?;
                Link::Sqlite(link)
            }
            ConnectOptions::Postgres(options) => {
                let mut link = PgConnection::connect_with(&options).await?;
                sqlx::query(&probe).execute(&mut link).await?;
                Link::Postgres(link)
            }
            ConnectOptions::MySql(options) => {
                let mut link = MySqlConnection::connect_with(&options).await?;
                sqlx::query(&probe).execute(&mut link).await?;
                Link::MySql(link)
            }
        })
    }

    /// Writes all of it, or nothing.
    async fn write_lot(&mut self, lot: &[Arc<SessionRecord>]) -> Result<(), Broken> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        let insert = &self.insert;
        match &mut self.connection {
            Some(Link::Sqlite(link)) => in_transaction!(link, insert, DatabaseKind::Sqlite, lot),
            Some(Link::Postgres(link)) => in_transaction!(link, insert, DatabaseKind::Postgres, lot),
            Some(Link::MySql(link)) => in_transaction!(link, insert, DatabaseKind::MySql, lot),
            None => Ok(()),
        }
    }

    async fn write_in_time(&mut self, lot: &[Arc<SessionRecord>]) -> Result<(), Lot> {
        let time = self.settings.timeout;
        let failure = match timeout(time, self.write_lot(lot)).await {
            Ok(Ok(())) => {
                self.lot = (self.lot * 2).min(MAX_LOT);
                return Ok(());
            }
            Ok(Err(Broken::At(at, error))) => return Err(Lot::At(at, self.why(&error))),
            Ok(Err(Broken::Away(error))) => self.why(&error),
            Err(_) => {
                self.lot = (self.lot / 2).max(1);
                self.took_too_long()
            }
        };
        self.connection = None;
        Err(Lot::Away(failure))
    }
}

/// As [`Broken`], in words.
enum Lot {
    Away(String),
    At(usize, String),
}

impl Sink for DatabaseSink {
    async fn open(&mut self) -> Result<(), String> {
        if self.connection.is_some() {
            return Ok(());
        }
        match timeout(self.settings.timeout, self.connect()).await {
            Ok(Ok(link)) => {
                self.connection = Some(link);
                Ok(())
            }
            Ok(Err(error)) => Err(self.why(&error)),
            Err(_) => Err(self.took_too_long()),
        }
    }

    async fn write(&mut self, batch: &[Arc<SessionRecord>]) -> Taken {
        let mut records = 0;
        while records < batch.len() {
            let lot = self.lot.min(batch.len() - records);
            match self.write_in_time(&batch[records..records + lot]).await {
                Ok(()) => records += lot,
                Err(Lot::Away(why)) => return Taken::failed(records, &why),
                Err(Lot::At(at, why)) => {
                    // Those before it, without it.
                    if at > 0
                        && let Err(Lot::Away(why) | Lot::At(_, why)) =
                            self.write_in_time(&batch[records..records + at]).await
                    {
                        return Taken::failed(records, &why);
                    }
                    return Taken { records: records + at, failure: Some(Failure::Refused(why)) };
                }
            }
        }
        Taken { records, failure: None }
    }
}

#[cfg(test)]
mod tests;
