//! Messages as a client reads and writes them.

use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind};
use msrp_proto::header::{ByteRange, Name};

/// A whole message, as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// The head.
    pub head: Head,
    /// The body; empty also where there was none.
    pub body: Vec<u8>,
    /// The flag of its end-line.
    pub flag: Flag,
}

impl Message {
    /// The status of a response; 0 for a request.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.head.kind() {
            Kind::Response(status) => status.as_u16(),
            Kind::Request(_) => 0,
        }
    }

    /// The method of a request; empty for a response.
    #[must_use]
    pub fn method(&self) -> &str {
        match self.head.kind() {
            Kind::Request(method) => method.as_str(),
            Kind::Response(_) => "",
        }
    }

    /// The transaction id.
    #[must_use]
    pub fn transaction(&self) -> String {
        self.head.transaction_id().to_string()
    }

    /// The first header field of this name, in any case; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.headers(name).into_iter().next().unwrap_or_default()
    }

    /// All header fields of this name.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<String> {
        let fields = self.head.fields().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// To-Path, as it is written.
    #[must_use]
    pub fn to_path(&self) -> Vec<String> {
        self.head.to_path().map(|uri| uri.as_str().to_owned()).collect()
    }

    /// From-Path, as it is written.
    #[must_use]
    pub fn from_path(&self) -> Vec<String> {
        self.head.from_path().map(|uri| uri.as_str().to_owned()).collect()
    }

    /// The Byte-Range; the default one if there is none.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.head.byte_range().expect("Byte-Range").unwrap_or_default()
    }

    /// The code of a REPORT's Status; 0 if it has none.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn reported(&self) -> u16 {
        self.head.status().expect("Status").map_or(0, |status| status.code.as_u16())
    }

    /// Whether it has this header field.
    #[must_use]
    pub fn has(&self, name: Name) -> bool {
        self.head.value(name).is_some()
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// A SEND to write.
#[derive(Clone, Debug, Default)]
pub struct Send {
    /// To-Path, as it is to be written.
    pub to: Vec<String>,
    /// The Message-ID.
    pub message: String,
    /// Byte-Range; made from the body if empty.
    pub range: String,
    /// More header lines, each with its CRLF.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Send {
    /// A message of text.
    #[must_use]
    pub fn text(to: &[String], message: &str, body: &str) -> Self {
        Self { to: to.to_vec(), message: message.into(), body: body.into(), ..Self::default() }
    }

    /// With one more header line.
    #[must_use]
    pub fn with(mut self, header: &str) -> Self {
        self.headers.push_str(header);
        self.headers.push_str("\r\n");
        self
    }
}
