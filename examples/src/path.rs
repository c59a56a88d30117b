//! MSRP paths as users hand them over.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use msrp_proto::uri::MsrpUri;

/// The way to somebody: their relays, the one to be reached first in front, and their own URI last.
/// As the value of SDP's `path` attribute (RFC 4975 §8.2, RFC 4976 §5.1). Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrpPath(Vec<MsrpUri>);

impl MsrpPath {
    /// The path to `own`, for its peers: the relays of `use_path` in reverse, and `own` last.
    pub fn to_own(own: &MsrpUri, use_path: &[MsrpUri]) -> Self {
        Self(use_path.iter().rev().chain([own]).cloned().collect())
    }

    /// The path to the sender of a request, out of the From-Path it came with. That begins with our
    /// own relays, as To-Path of an answer has to; `ours` are the URIs they gave us. `None`: nothing is
    /// left.
    ///
    /// # Errors
    /// It is no path.
    pub fn to_sender(from_path: &str, ours: &[MsrpUri]) -> anyhow::Result<Option<Self>> {
        let Self(uris) = from_path.parse()?;
        let uris: Vec<_> = uris.into_iter().skip_while(|uri| ours.contains(uri)).collect();
        Ok((!uris.is_empty()).then_some(Self(uris)))
    }

    /// Its URIs in order.
    pub fn uris(&self) -> &[MsrpUri] {
        &self.0
    }

    /// Where to connect to when there is no relay of ours.
    pub fn first(&self) -> &MsrpUri {
        &self.0[0]
    }

    /// Whose path it is.
    pub fn last(&self) -> &MsrpUri {
        &self.0[self.0.len() - 1]
    }

    /// The line to give to the other side, as it would stand in SDP.
    pub fn sdp(&self) -> String {
        format!("a=path:{self}")
    }
}

impl fmt::Display for MsrpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, others) = (&self.0[0], &self.0[1..]);
        f.write_str(first.as_str())?;
        others.iter().try_for_each(|uri| write!(f, " {uri}"))
    }
}

/// Takes the URIs alone, or the whole line of SDP.
impl FromStr for MsrpPath {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let text = text.strip_prefix("a=").unwrap_or(text);
        let text = text.strip_prefix("path:").unwrap_or(text);
        let uris = text.split_ascii_whitespace().map(|uri| {
            uri.parse().with_context(|| format!("{uri:?} is no MSRP URI, such as msrp://host:2855/abc;tcp"))
        });
        let uris: Vec<MsrpUri> = uris.collect::<anyhow::Result<_>>()?;
        if uris.is_empty() {
            bail!("the path is empty");
        }
        Ok(Self(uris))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_sdp_and_the_bare_uris_are_the_same() {
        let bare: MsrpPath = "msrps://r.test:2855/1;tcp msrps://a.invalid:2855/2;tcp".parse().unwrap();
        assert_eq!(bare, bare.sdp().parse().unwrap());
        assert_eq!(bare, format!(" path:{bare}\r\n").parse().unwrap());
        assert_eq!(bare.first().as_ref().host(), "r.test");
        assert_eq!(bare.last().as_ref().session_id(), Some("2"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "a=path:", "hello", "msrp://a.test:1/x;tcp hello"] {
            assert!(text.parse::<MsrpPath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_way_back_begins_behind_our_own_relays() {
        let uri = |text: &str| text.parse::<MsrpUri>().unwrap();
        let ours = [uri("msrps://r.test:1/old;tcp"), uri("msrps://r.test:1/new;tcp")];
        let peer = "msrps://r.test:1/hers;tcp msrps://client.invalid:2855/her;tcp";
        for before in ["", "msrps://r.test:1/new;tcp ", "msrps://R.test:1/old;tcp "] {
            let back = MsrpPath::to_sender(&format!("{before}{peer}"), &ours).unwrap().unwrap();
            assert_eq!(back.to_string(), peer);
        }
        assert!(MsrpPath::to_sender(ours[0].as_str(), &ours).unwrap().is_none());
        assert!(MsrpPath::to_sender("hello", &ours).is_err());
    }

    #[test]
    fn use_path_is_reversed_for_the_peer() {
        let uri = |text: &str| text.parse::<MsrpUri>().unwrap();
        let inner = uri("msrps://inner.test:1/i;tcp");
        let outer = uri("msrps://outer.test:2/o;tcp");
        let own = uri("msrps://a.invalid:3/a;tcp");
        let path = MsrpPath::to_own(&own, &[inner.clone(), outer.clone()]);
        assert_eq!(path.uris(), [outer, inner, own]);
    }
}
