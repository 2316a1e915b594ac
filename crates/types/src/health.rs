//! Whether what an instance is for works: how that is asked, and what was answered last. Who asks is the instance's node.
//!
//! ```text
//!  (begins to run) ──▶ starting ──▶ healthy ⇄ unhealthy
//!                          └────────────────────▲   (`retries` failures in a row, none counted within the start period)
//! ```

use crate::{Invalid, Span, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum HealthProbe {
    /// A program inside that must end with code 0.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// An HTTP request to the instance's address that must be answered with a code from 200 to 399.
    Http {
        /// The port.
        port: u16,
        /// The path, `/` if absent.
        #[serde(default = "slash")]
        path: String,
    },
    /// A TCP connection to the instance's address that must be accepted.
    Tcp {
        /// The port.
        port: u16,
    },
}

fn slash() -> String {
    "/".into()
}

/// What follows when it becomes unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnhealthy {
    /// It is said.
    #[default]
    Report,
    /// It is said and ended as if it had failed, so that its restart policy starts it again.
    Restart,
}

impl FromStr for WhenUnhealthy {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "report" => Ok(Self::Report),
            "restart" => Ok(Self::Restart),
            _ => Err(Invalid(format!("{text:?} is not done with unhealthy instances: use report or restart"))),
        }
    }
}

/// How health is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// The question.
    pub probe: HealthProbe,
    /// The pause between the end of one question and the next.
    #[serde(default = "HealthCheck::default_interval")]
    pub interval: Span,
    /// How long an answer may take.
    #[serde(default = "HealthCheck::default_timeout")]
    pub timeout: Span,
    /// So many failures in a row make it unhealthy.
    #[serde(default = "HealthCheck::default_retries")]
    pub retries: u32,
    /// For so long after the start failures do not count. The first success ends it.
    #[serde(default = "HealthCheck::default_start_period")]
    pub start_period: Span,
    /// What follows when it becomes unhealthy.
    #[serde(default)]
    pub when_unhealthy: WhenUnhealthy,
}

impl HealthCheck {
    /// A check with the usual times.
    pub fn new(probe: HealthProbe) -> Self {
        Self {
            probe,
            interval: Self::default_interval(),
            timeout: Self::default_timeout(),
            retries: Self::default_retries(),
            start_period: Self::default_start_period(),
            when_unhealthy: WhenUnhealthy::default(),
        }
    }
    /// 10 seconds.
    pub fn default_interval() -> Span {
        Span::seconds(10)
    }
    /// 5 seconds.
    pub fn default_timeout() -> Span {
        Span::seconds(5)
    }
    /// 3.
    pub fn default_retries() -> u32 {
        3
    }
    /// None.
    pub fn default_start_period() -> Span {
        Span::seconds(0)
    }
}

/// Whether it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It runs and has not answered well yet.
    #[default]
    Starting,
    /// It answered well.
    Healthy,
    /// It failed too often in a row.
    Unhealthy,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// The last answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct HealthStatus {
    /// Whether it works.
    pub state: HealthState,
    /// Failures in a row.
    #[serde(default)]
    pub failures: u32,
    /// When it was asked last. Answers that change nothing else are not told, so this may be older than the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Timestamp>,
    /// What it answered last: the end of a program's output, the first line of an HTTP answer, or why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_gets_its_usual_value() {
        let check: HealthCheck = serde_json::from_str(r#"{"probe":{"type":"http","port":80}}"#).unwrap();
        assert_eq!(check, HealthCheck::new(HealthProbe::Http { port: 80, path: "/".into() }));
        let check: HealthCheck = serde_json::from_str(
            r#"{"probe":{"type":"command","command":["true"]},"interval":"1m30s","when_unhealthy":"restart"}"#,
        )
        .unwrap();
        assert_eq!((check.interval, check.when_unhealthy), (Span::seconds(90), WhenUnhealthy::Restart));
        assert_eq!(serde_json::from_str::<HealthCheck>(&serde_json::to_string(&check).unwrap()).unwrap(), check);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for bad in [
            r#"{"probe":{"type":"udp","port":80}}"#,
            r#"{"probe":{"type":"tcp","port":80},"often":"1s"}"#,
            r#"{"probe":{"type":"tcp","port":80},"interval":"soon"}"#,
            r#"{"probe":{"type":"tcp","port":70000}}"#,
        ] {
            assert!(serde_json::from_str::<HealthCheck>(bad).is_err(), "{bad}");
        }
        assert!("kill".parse::<WhenUnhealthy>().unwrap_err().0.contains("report or restart"));
    }
}
