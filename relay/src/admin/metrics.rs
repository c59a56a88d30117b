//! `GET /metrics`: the [statistics] as OpenMetrics text, made when they are asked for.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::statistics::{self, Kind, Value};
use crate::server::Control;

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one relay.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Those of the relay that `control` controls.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Statistics(control)));
        Self(registry)
    }

    /// Their values of this moment.
    ///
    /// # Errors
    /// None that happen: the text is written to memory.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Statistics(Arc<Control>);

impl Collector for Statistics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in statistics::collect(&self.0) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut encoder = encoder.encode_descriptor(&family.name, family.help, unit.as_ref(), kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    write(&mut encoder, family.kind, sample.value)?;
                } else {
                    write(&mut encoder.encode_family(&sample.labels)?, family.kind, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Count(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        // Beyond 2^63 there is nothing to count.
        (Kind::Gauge, Value::Count(value)) => encoder.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
        (Kind::Gauge, Value::Real(value)) => encoder.encode_gauge(&value),
    }
}
