//! A message to be sent.

use bytes::Bytes;

use super::event::UsageError;
use crate::chunk::Chunking;
use crate::header::{FailureReport, Name};

/// A message to be sent with [`Endpoint::send`](super::Endpoint::send).
#[derive(Clone, Debug)]
pub struct Message {
    /// The media type, with its parameters.
    pub content_type: String,
    /// Header fields besides those the endpoint writes, such as Content-Disposition. They go with
    /// every chunk.
    pub fields: Vec<(String, String)>,
    /// Whether success REPORTs are wanted (RFC 4975 §7.1.1). Default: no.
    pub success_report: bool,
    /// Which failures we want to hear of. Default: all.
    pub failure_report: FailureReport,
    /// How it is split.
    pub chunking: Chunking,
    /// The content.
    pub body: Body,
    /// The Message-ID of an earlier attempt that may have arrived (RFC 4975 §5.4). Default: a new
    /// one.
    pub message_id: Option<String>,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it. Not copied before it is sent.
    Whole(Bytes),
    /// It is asked for with [`Event::BodyWanted`](super::Event::BodyWanted) while the message is
    /// sent.
    Streamed {
        /// Its length in bytes, if known. The message is complete with the last of them; without,
        /// with [`Endpoint::finish_body`](super::Endpoint::finish_body).
        total: Option<u64>,
    },
}

impl Message {
    /// A message that is at hand.
    pub fn new(content_type: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::with_body(content_type.into(), Body::Whole(body.into()))
    }

    /// A message whose content comes while it is sent.
    pub fn streamed(content_type: impl Into<String>, total: Option<u64>) -> Self {
        Self::with_body(content_type.into(), Body::Streamed { total })
    }

    fn with_body(content_type: String, body: Body) -> Self {
        Self {
            content_type,
            fields: Vec::new(),
            success_report: false,
            failure_report: FailureReport::Yes,
            chunking: Chunking::default(),
            body,
            message_id: None,
        }
    }

    /// All lines after Byte-Range; Content-Type is the last (RFC 4975 §7.1).
    pub(super) fn fields(&self) -> Result<Vec<u8>, UsageError> {
        let mut lines = Vec::new();
        if self.success_report {
            lines.extend_from_slice(b"Success-Report: yes\r\n");
        }
        match self.failure_report {
            FailureReport::Yes => {}
            FailureReport::Partial => lines.extend_from_slice(b"Failure-Report: partial\r\n"),
            FailureReport::No => lines.extend_from_slice(b"Failure-Report: no\r\n"),
        }
        let printable = |value: &str| !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t');
        let content_type = ("Content-Type".to_owned(), self.content_type.clone());
        for (name, value) in self.fields.iter().chain([&content_type]) {
            let is_ours = !matches!(Name::from_bytes(name.as_bytes()), Name::Other | Name::ContentType);
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!%*+'~".contains(&byte));
            if is_ours || !is_name || !printable(value) {
                return Err(UsageError::Field(name.clone()));
            }
            lines.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.message_id.as_ref().is_some_and(|id| !crate::ident::is_ident(id.as_bytes())) {
            return Err(UsageError::Field("Message-ID".to_owned()));
        }
        if self.content_type.is_empty()
            || self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type"))
        {
            return Err(UsageError::Field("Content-Type".to_owned()));
        }
        Ok(lines)
    }
}
