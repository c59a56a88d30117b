//! What the thread of a sink does: takes from the queue, writes, and tries again.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::error;

use super::outbox::Outbox;
use super::record::SessionRecord;
use super::{FIRST_PAUSE, MAX_PAUSE, STOP_PAUSE};

/// The most records that are written at once.
const MAX_BATCH: usize = 256;

/// Where records go.
pub(super) trait Sink {
    /// Makes itself ready; what is open already is opened again.
    fn open(&mut self) -> impl Future<Output = Result<(), String>>;

    /// Writes records, in order: how many it has taken, and why no more.
    fn write(&mut self, batch: &[Arc<SessionRecord>]) -> impl Future<Output = Taken>;
}

/// What a sink has taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// So many, from the first.
    pub(super) records: usize,
    /// Why it took no more, if that is not as it should be.
    pub(super) failure: Option<Failure>,
}

impl Taken {
    pub(super) fn all(batch: &[Arc<SessionRecord>]) -> Self {
        Self { records: batch.len(), failure: None }
    }

    pub(super) fn failed(records: usize, why: &dyn Display) -> Self {
        Self { records, failure: Some(Failure::Away(why.to_string())) }
    }
}

/// Why a sink does not take a record.
#[derive(Debug)]
pub(super) enum Failure {
    /// It takes none now.
    Away(String),
    /// It will never take this one: the first that was not taken.
    Refused(String),
}

/// Writes until the outbox is closed, and empty or another one's.
pub(super) async fn run(outbox: &Outbox, mut sink: impl Sink) {
    let mut pause = Pause::default();
    if let Err(why) = sink.open().await {
        outbox.is_away(&why);
    }
    while !outbox.is_done() {
        let asked = outbox.take_reopen();
        if !asked.is_empty() {
            let opened = sink.open().await;
            if let Err(why) = &opened {
                outbox.is_away(why);
            }
            for who in asked {
                // It may not wait any more.
                let _ = who.try_send(opened.clone());
            }
        }
        let batch = outbox.oldest(MAX_BATCH);
        if batch.is_empty() {
            outbox.wait().await;
            continue;
        }
        let Taken { records, failure } = sink.write(&batch).await;
        outbox.written(records);
        match failure {
            None => outbox.is_back(),
            Some(Failure::Refused(why)) => {
                if let Some(record) = batch.get(records) {
                    let (sink, record) = (outbox.name(), record.to_json());
                    error!(sink, error = why, %record, "a session record is refused, and stands only here");
                }
                outbox.refused();
            }
            Some(Failure::Away(why)) => {
                outbox.is_away(&why);
                let pause = pause.next(Instant::now());
                let pause = if outbox.hurries() { pause.min(STOP_PAUSE) } else { pause };
                tokio::select! {
                    () = sleep(pause) => {}
                    () = outbox.wait_urgent() => {}
                }
            }
        }
    }
}

/// How long is waited after a failure: each time twice as long, until it has been well for [`MAX_PAUSE`].
#[derive(Debug, Default)]
struct Pause {
    last: Option<(Instant, Duration)>,
}

impl Pause {
    fn next(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((ends, pause)) if now.saturating_duration_since(ends) < MAX_PAUSE => {
                (pause * 2).min(MAX_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        self.last = Some((now + pause, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;

    use super::super::queue::RecordCounts;
    use super::super::record::tests::ended;
    use super::*;

    /// Does as it is told, then takes everything; notes when it was asked, and what it has.
    #[derive(Clone, Default)]
    struct Script(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        answers: VecDeque<Taken>,
        asked: Vec<Instant>,
        opened: usize,
        has: Vec<String>,
    }

    impl Sink for Script {
        async fn open(&mut self) -> Result<(), String> {
            self.0.lock().opened += 1;
            Ok(())
        }

        async fn write(&mut self, batch: &[Arc<SessionRecord>]) -> Taken {
            let mut state = self.0.lock();
            state.asked.push(Instant::now());
            let taken = state.answers.pop_front().unwrap_or_else(|| Taken::all(batch));
            state.has.extend(batch[..taken.records].iter().map(|record| record.session.clone()));
            taken
        }
    }

    fn outbox(limit: usize, ids: &[&str]) -> Outbox {
        let outbox = Outbox::new("test", limit);
        for id in ids {
            outbox.push(ended(id));
        }
        outbox
    }

    async fn run_for(outbox: &Outbox, script: &Script, time: Duration) {
        let _ = tokio::time::timeout(time, run(outbox, script.clone())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_after_longer_and_longer_pauses() {
        let outbox = outbox(10, &["a", "b"]);
        let script = Script::default();
        script.0.lock().answers.extend((0..10).map(|_| Taken::failed(0, &"away")));
        run_for(&outbox, &script, Duration::from_secs(300)).await;
        let state = script.0.lock();
        let pauses: Vec<_> = state.asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(state.has, ["a", "b"]);
        assert!(outbox.is_available());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_before_a_failure_is_not_written_again() {
        let outbox = outbox(10, &["a", "b", "c"]);
        let script = Script::default();
        script.0.lock().answers.extend([Taken::failed(2, &"full"), Taken::failed(0, &"full")]);
        run_for(&outbox, &script, Duration::from_millis(500)).await;
        assert!(!outbox.is_available() && outbox.counts().queued == 1);
        run_for(&outbox, &script, Duration::from_secs(60)).await;
        assert_eq!(script.0.lock().has, ["a", "b", "c"]);
        assert_eq!(outbox.counts(), RecordCounts { written: 3, ..RecordCounts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_refused_holds_up_nobody() {
        let outbox = outbox(10, &["a", "bad", "c"]);
        let script = Script::default();
        let refused = Taken { records: 1, failure: Some(Failure::Refused("too long".into())) };
        script.0.lock().answers.push_back(refused);
        run_for(&outbox, &script, Duration::from_secs(1)).await;
        assert_eq!(script.0.lock().has, ["a", "c"]);
        assert_eq!(outbox.counts(), RecordCounts { written: 2, refused: 1, ..RecordCounts::default() });
        assert!(outbox.is_available());
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_what_waits_is_written_without_long_pauses() {
        let outbox = outbox(10, &["a"]);
        let script = Script::default();
        script.0.lock().answers.extend((0..20).map(|_| Taken::failed(0, &"away")));
        outbox.hurry();
        let began = Instant::now();
        run(&outbox, script.clone()).await;
        assert_eq!(script.0.lock().has, ["a"]);
        assert!(began.elapsed() <= STOP_PAUSE * 20, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_gone_is_tried_after_long_pauses_as_ever() {
        let outbox = outbox(10, &["a"]);
        let script = Script::default();
        script.0.lock().answers.extend((0..6).map(|_| Taken::failed(0, &"away")));
        outbox.close();
        let began = Instant::now();
        run(&outbox, script.clone()).await;
        assert_eq!(script.0.lock().has, ["a"]);
        assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(outbox.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn an_heir_writes_what_waits_once_the_former_one_has_ended() {
        let former = outbox(10, &["a", "b", "c"]);
        let (first, second, third) = (Script::default(), Script::default(), Script::default());
        first.0.lock().answers.extend([Taken::failed(1, &"away")]);
        run_for(&former, &first, Duration::from_millis(1)).await;
        assert_eq!(first.0.lock().has, ["a"]);
        let (heir, last) = (Arc::new(outbox(10, &["d"])), Arc::new(outbox(10, &["e"])));
        former.hand_over_to(&heir);
        run_for(&heir, &second, Duration::from_secs(1)).await;
        // One after the other, though the one in the middle has nothing to write any more.
        heir.hand_over_to(&last);
        run_for(&heir, &second, Duration::from_secs(1)).await;
        run_for(&last, &third, Duration::from_secs(1)).await;
        assert!(!former.is_over() && !heir.is_over());
        for (outbox, script) in [(&former, &first), (&*heir, &second)] {
            let _delivery = outbox.delivery();
            run(outbox, script.clone()).await;
        }
        assert!(former.is_over() && heir.is_over());
        run_for(&last, &third, Duration::from_secs(1)).await;
        assert_eq!((first.0.lock().has.len(), second.0.lock().has.len()), (1, 0));
        assert_eq!(third.0.lock().has, ["b", "c", "d", "e"]);
        assert_eq!(last.counts(), RecordCounts { written: 5, ..RecordCounts::default() });
        // Whose thread has ended holds up nobody.
        let late = Arc::new(outbox(10, &["f"]));
        heir.hand_over_to(&late);
        run_for(&late, &third, Duration::from_secs(1)).await;
        assert_eq!(third.0.lock().has.len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_away_is_tried_at_once_when_asked_to_open_again() {
        let outbox = outbox(10, &["a"]);
        let script = Script::default();
        script.0.lock().answers.extend((0..8).map(|_| Taken::failed(0, &"away")));
        run_for(&outbox, &script, Duration::from_secs(40)).await;
        assert_eq!(script.0.lock().asked.len(), 8);
        let answer = outbox.reopen();
        run_for(&outbox, &script, Duration::from_millis(1)).await;
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        // Once by each `run`, and once as it was asked.
        let state = script.0.lock();
        assert_eq!((state.opened, state.has.len()), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_records_are_written_in_lots() {
        let outbox = outbox(MAX_BATCH * 3, &vec!["x"; MAX_BATCH * 2 + 1]);
        let script = Script::default();
        run_for(&outbox, &script, Duration::from_millis(1)).await;
        let state = script.0.lock();
        assert_eq!((state.asked.len(), state.has.len()), (3, MAX_BATCH * 2 + 1));
    }

    #[test]
    fn the_pause_is_short_again_after_a_good_time() {
        let mut pause = Pause::default();
        let mut now = Instant::now();
        assert_eq!(pause.next(now), FIRST_PAUSE);
        now += FIRST_PAUSE;
        assert_eq!(pause.next(now), FIRST_PAUSE * 2);
        now += FIRST_PAUSE * 2 + MAX_PAUSE;
        assert_eq!(pause.next(now), FIRST_PAUSE);
    }
}
