//! `trace_filter`: which connections are traced.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::event::Direction;
use crate::proxy_protocol::IpNetwork;
use crate::scheme::Scheme;
use crate::tls::SniPattern;

/// What is known of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it carries.
    pub protocol: Option<Scheme>,
    /// Who opened it.
    pub direction: Direction,
    /// The peer, or the client its proxy has named.
    pub remote: SocketAddr,
    /// Our address, once known.
    pub local: Option<SocketAddr>,
    /// The listener that accepted it, by name.
    pub listener: Option<String>,
    /// The name a client asked for, or that it asked for none, once known.
    pub sni: Option<Option<String>>,
    /// Who has authenticated on it, or that it is in use and nobody has, once known.
    pub user: Option<Option<String>>,
}

/// One rule. It matches a connection that all of what it names is true of.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Whether what it matches is traced.
    pub trace: bool,
    /// The peer's address.
    pub remote: Option<IpNetwork>,
    /// The peer's port.
    pub remote_port: Option<RangeInclusive<u16>>,
    /// Our address.
    pub local: Option<IpNetwork>,
    /// Our port.
    pub local_port: Option<RangeInclusive<u16>>,
    /// One of these protocols; empty: any.
    pub protocols: Vec<Scheme>,
    /// Who opened it.
    pub direction: Option<Direction>,
    /// The listener's name; no connection that we opened has one.
    pub listener: Option<String>,
    /// The name that was asked for in TLS.
    pub sni: Option<SniPattern>,
    /// The user. It matches from the moment this user has authenticated; until somebody has, or the connection is in
    /// use without that, what the rule says of its messages is undecided, and none is traced.
    pub user: Option<String>,
}

impl Rule {
    /// One that matches everything.
    #[must_use]
    pub fn any(trace: bool) -> Self {
        Self {
            trace,
            remote: None,
            remote_port: None,
            local: None,
            local_port: None,
            protocols: Vec::new(),
            direction: None,
            listener: None,
            sni: None,
            user: None,
        }
    }

    /// Whether it matches; `None`: what is not yet known decides.
    fn matches(&self, facts: &Facts) -> Option<bool> {
        fn on<T, U>(wanted: Option<&T>, fact: Option<U>, test: impl Fn(&T, U) -> bool) -> Option<bool> {
            wanted.map_or(Some(true), |wanted| fact.map(|fact| test(wanted, fact)))
        }
        let remote = facts.remote;
        let parts = [
            on(self.remote.as_ref(), Some(remote.ip()), IpNetwork::contains),
            on(self.remote_port.as_ref(), Some(remote.port()), |ports, port| ports.contains(&port)),
            Some(self.protocols.is_empty() || facts.protocol.is_some_and(|it| self.protocols.contains(&it))),
            on(self.direction.as_ref(), Some(facts.direction), |wanted, direction| *wanted == direction),
            on(self.user.as_ref(), facts.user.as_ref(), |wanted, user| Some(wanted) == user.as_ref()),
            on(self.listener.as_ref(), Some(facts.listener.as_ref()), |wanted, name| Some(wanted) == name),
            on(self.local.as_ref(), facts.local, |network, local| network.contains(local.ip())),
            on(self.local_port.as_ref(), facts.local, |ports, local| ports.contains(&local.port())),
            on(self.sni.as_ref(), facts.sni.as_ref(), |pattern, sni| includes(pattern, sni.as_deref())),
        ];
        if parts.contains(&Some(false)) {
            Some(false)
        } else if parts.contains(&None) {
            None
        } else {
            Some(true)
        }
    }
}

fn includes(pattern: &SniPattern, sni: Option<&str>) -> bool {
    match (pattern, sni) {
        (SniPattern::Any, _) | (SniPattern::None, None) => true,
        (SniPattern::Exact(name), Some(sni)) => sni.eq_ignore_ascii_case(name),
        (SniPattern::Suffix(suffix), Some(sni)) => {
            let sni = sni.to_ascii_lowercase();
            sni.len() > suffix.len() && sni.ends_with(suffix)
        }
        _ => false,
    }
}

/// What the rules say of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is traced.
    Trace,
    /// It is not.
    Skip,
    /// Something must be known first.
    Undecided,
}

/// Rules, of which the first one that matches decides; what none matches is traced.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In their order.
    pub rules: Vec<Rule>,
}

impl Filter {
    /// What the rules say of a connection of which this is known.
    #[must_use]
    pub fn verdict(&self, facts: &Facts) -> Verdict {
        for rule in &self.rules {
            match rule.matches(facts) {
                Some(true) if rule.trace => return Verdict::Trace,
                Some(true) => return Verdict::Skip,
                Some(false) => {}
                None => return Verdict::Undecided,
            }
        }
        Verdict::Trace
    }

    /// As [`verdict`](Self::verdict), when nothing more will be known: what is not known matches nothing.
    #[must_use]
    pub fn last_verdict(&self, facts: &Facts) -> bool {
        let decided = self.rules.iter().find(|rule| rule.matches(facts) == Some(true));
        decided.is_none_or(|rule| rule.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            protocol: Some(Scheme::Msrps),
            direction: Direction::Inbound,
            remote: "192.0.2.7:4000".parse().unwrap(),
            local: Some("198.51.100.1:2855".parse().unwrap()),
            listener: Some("outside".into()),
            sni: Some(Some("relay.example.org".into())),
            user: Some(Some("alice".into())),
        }
    }

    /// What one rule that skips, and is followed by nothing, says.
    fn skips(change: impl Fn(&mut Rule), facts: &Facts) -> Verdict {
        let mut rule = Rule::any(false);
        change(&mut rule);
        Filter { rules: vec![rule] }.verdict(facts)
    }

    #[test]
    fn each_part_of_a_rule_is_looked_at() {
        type Change = Box<dyn Fn(&mut Rule)>;
        let cases: Vec<(Change, Change)> = vec![
            (
                Box::new(|r| r.remote = Some("192.0.2.0/24".parse().unwrap())),
                Box::new(|r| r.remote = Some("192.0.2.8".parse().unwrap())),
            ),
            (
                Box::new(|r| r.remote_port = Some(4000..=4000)),
                Box::new(|r| r.remote_port = Some(4001..=5000)),
            ),
            (
                Box::new(|r| r.local = Some("198.51.100.1".parse().unwrap())),
                Box::new(|r| r.local = Some("198.51.100.2".parse().unwrap())),
            ),
            (Box::new(|r| r.local_port = Some(2000..=3000)), Box::new(|r| r.local_port = Some(1..=2854))),
            (
                Box::new(|r| r.protocols = vec![Scheme::Wss, Scheme::Msrps]),
                Box::new(|r| r.protocols = vec![Scheme::Wss]),
            ),
            (
                Box::new(|r| r.direction = Some(Direction::Inbound)),
                Box::new(|r| r.direction = Some(Direction::Outbound)),
            ),
            (
                Box::new(|r| r.listener = Some("outside".into())),
                Box::new(|r| r.listener = Some("inside".into())),
            ),
            (
                Box::new(|r| r.sni = Some("*.example.org".parse().unwrap())),
                Box::new(|r| r.sni = Some("none".parse().unwrap())),
            ),
            (Box::new(|r| r.user = Some("alice".into())), Box::new(|r| r.user = Some("bob".into()))),
        ];
        for (n, (yes, no)) in cases.iter().enumerate() {
            assert_eq!(skips(yes, &facts()), Verdict::Skip, "case {n}");
            assert_eq!(skips(no, &facts()), Verdict::Trace, "case {n}");
        }
    }

    #[test]
    fn the_first_match_wins_and_what_none_matches_is_traced() {
        let of = |port, trace| Rule { remote_port: Some(port), ..Rule::any(trace) };
        let filter = Filter { rules: vec![of(4000..=4000, true), of(1..=5000, false)] };
        assert_eq!(filter.verdict(&facts()), Verdict::Trace);
        let at = |port| Facts { remote: ([192, 0, 2, 7], port).into(), ..facts() };
        assert_eq!(filter.verdict(&at(4001)), Verdict::Skip);
        assert_eq!(filter.verdict(&at(5001)), Verdict::Trace);
        assert_eq!(Filter::default().verdict(&facts()), Verdict::Trace);
    }

    #[test]
    fn what_is_not_yet_known_is_waited_for_where_it_decides() {
        let early = Facts { local: None, sni: None, ..facts() };
        let local = |r: &mut Rule| r.local_port = Some(2855..=2855);
        assert_eq!(skips(local, &early), Verdict::Undecided);
        let mut rule = Rule::any(false);
        local(&mut rule);
        assert!(Filter { rules: vec![rule.clone()] }.last_verdict(&early));
        // Another part says no already.
        rule.user = Some("bob".into());
        assert_eq!(Filter { rules: vec![rule] }.verdict(&early), Verdict::Trace);

        let of_user = |r: &mut Rule| r.user = Some("alice".into());
        assert_eq!(skips(of_user, &Facts { user: None, ..facts() }), Verdict::Undecided);
        assert_eq!(skips(of_user, &Facts { user: Some(None), ..facts() }), Verdict::Trace);
        assert_eq!(skips(of_user, &facts()), Verdict::Skip);
    }
}
