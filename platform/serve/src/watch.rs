//! What a supervisor hears of a server while it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::server::Shared;

/// How often it hears something where it does not watch more closely.
const OFTEN: Duration = Duration::from_secs(5);
/// Loading goes on for at least so long after each word, in microseconds.
const PATIENCE: u64 = 60_000_000;

/// Tells how the server is until it ends: for how long it has been loading, how much there is to do,
/// and that it lives.
///
/// It lives while its engine ends one batch after the other, or has nothing to do; one that is stuck is
/// not vouched for, whoever else still works.
pub async fn report(shared: Arc<Shared>) {
    let often = shared.watchdog.map_or(OFTEN, |watchdog| OFTEN.min(watchdog / 4));
    let mut said = String::new();
    loop {
        let (mut lines, status) = match shared.model() {
            Err(Some(seconds)) => {
                let status = format!("the model is being loaded, for {seconds} s so far");
                (format!("EXTEND_TIMEOUT_USEC={PATIENCE}\n"), status)
            }
            Ok(_) => {
                let (busy, queued) = shared.metrics.loads();
                let lives = shared.watchdog.is_some_and(|most| shared.metrics.silence() < most / 2);
                let lines = if lives { "WATCHDOG=1\n" } else { "" };
                (lines.to_owned(), format!("{busy} answers under way, {queued} wait"))
            }
            Err(None) => return,
        };
        if !shared.is_leaving() && status != said {
            lines.push_str(&format!("STATUS={status}\n"));
            said = status;
        }
        if !lines.is_empty() {
            shared.tell(&lines);
        }
        sleep(often).await;
    }
}
