//! What the system says of this machine when it is asked. Some sensors answer late, or never: the door
//! waits for none of them.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::server::lock;

/// How long a reading is waited for before the last one has to do.
const PATIENCE: Duration = Duration::from_millis(250);

/// A value that is read beside the door, by one reader at a time.
pub struct Gauge<T> {
    read: fn() -> Option<T>,
    /// What was read last.
    last: Mutex<Option<T>>,
    /// Whose turn it is to read.
    turn: Arc<Semaphore>,
}

impl<T: Copy + Send + 'static> Gauge<T> {
    /// One that is read so.
    pub fn new(read: fn() -> Option<T>) -> Arc<Self> {
        Arc::new(Self { read, last: Mutex::new(None), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Its value now; the last one while somebody else reads it, or where that takes long.
    pub async fn look(self: &Arc<Self>) -> Option<T> {
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
            let gauge = Arc::clone(self);
            let reading = spawn_blocking(move || {
                let value = (gauge.read)();
                *lock(&gauge.last) = value;
                drop(turn);
            });
            let _ = timeout(PATIENCE, reading).await;
        }
        *lock(&self.last)
    }
}

/// Temperature of the board's first sensor, in degrees Celsius.
pub fn temperature() -> Option<f64> {
    let zone = fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    Some(zone.trim().parse::<f64>().ok()? / 1000.0)
}

/// Bytes of RAM that this process has.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Whether the sensor answers.
    static ANSWERS: Mutex<bool> = Mutex::new(true);
    static CHANGED: Condvar = Condvar::new();
    static READERS: AtomicU32 = AtomicU32::new(0);

    fn sensor() -> Option<u32> {
        let number = READERS.fetch_add(1, Ordering::SeqCst) + 1;
        let answers = CHANGED.wait_while(lock(&ANSWERS), |answers| !*answers).unwrap();
        answers.then_some(number)
    }

    #[test]
    fn a_sensor_that_is_stuck_is_waited_for_by_one_reader() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let gauge = Gauge::new(sensor);
            let read = async || {
                drop(gauge.turn.acquire().await.unwrap());
                *lock(&gauge.last)
            };
            gauge.look().await;
            assert_eq!(read().await, Some(1));
            *lock(&ANSWERS) = false;
            for _ in 0..3 {
                assert_eq!(gauge.look().await, Some(1));
            }
            *lock(&ANSWERS) = true;
            CHANGED.notify_all();
            assert_eq!(read().await, Some(2));
            gauge.look().await;
            assert_eq!(read().await, Some(3));
        });
    }

    #[test]
    fn linux_tells_how_much_ram_a_process_has() {
        assert!(resident().unwrap() > 0);
    }
}
