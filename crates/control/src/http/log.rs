//! Carries what the HTTP server logs into the program's log, without what must not be there: queries hold commands and environments.

use slog::{Drain, KV, Key, Level, Never, OwnedKVList, Record, Serializer};
use std::fmt::{self, Write};

/// A logger that writes to `tracing`.
pub(super) fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Each request is news for who looks for a fault, not for who reads the log of a day.
        let enabled = match record.level() {
            Level::Critical | Level::Error | Level::Warning => tracing::enabled!(tracing::Level::WARN),
            Level::Info => tracing::enabled!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(tracing::Level::TRACE),
        };
        if !enabled {
            return Ok(());
        }
        let mut fields = Fields(String::new());
        // Collecting into a String cannot fail.
        let _ = record.kv().serialize(record, &mut fields);
        let _ = values.serialize(record, &mut fields);
        let (message, fields) = (record.msg(), fields.0);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "yun_control::http", "{message}{fields}"),
            Level::Warning => tracing::warn!(target: "yun_control::http", "{message}{fields}"),
            Level::Info => tracing::debug!(target: "yun_control::http", "{message}{fields}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "yun_control::http", "{message}{fields}"),
        }
        Ok(())
    }
}

struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        let text = value.to_string();
        let shown = if key == "uri" { text.split('?').next().unwrap_or_default() } else { &text };
        write!(self.0, " {key}={shown}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_left_out() {
        let mut fields = Fields(String::new());
        fields.emit_arguments("uri".into(), &format_args!("/v1/instances/web/exec?env=SECRET")).unwrap();
        fields.emit_arguments("method".into(), &format_args!("GET")).unwrap();
        assert_eq!(fields.0, " uri=/v1/instances/web/exec method=GET");
    }
}
