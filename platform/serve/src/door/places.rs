//! Places for connections: one that only waits for its client's next request gives its own to who comes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::server::lock;

/// All places.
pub struct Places {
    free: Arc<Semaphore>,
    count: u32,
    waits: Mutex<Waits>,
}

/// Who waits for what.
#[derive(Default)]
struct Waits {
    /// Connections between two requests; the first has waited for longest.
    idle: VecDeque<Arc<Client>>,
    /// Connections that were asked to end, and have not yet.
    ending: usize,
    /// Clients without a place.
    coming: usize,
}

/// Whose connection it is.
#[derive(Default)]
struct Client {
    is_asked: AtomicBool,
    end: Notify,
}

/// The place of a connection; free again when it is dropped.
pub struct Place {
    places: Arc<Places>,
    client: Arc<Client>,
    /// Whether the last request was refused and had a body, of which the client may still send.
    is_unread: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

/// A request under way, on to the last byte of its answer.
pub struct Busy(Arc<Place>);

/// An answer's body, which keeps its connection busy.
pub struct Answer {
    body: Body,
    _busy: Busy,
}

impl Places {
    /// So many.
    pub fn new(count: u32) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(count as usize));
        Arc::new(Self { free, count, waits: Mutex::default() })
    }

    /// A place, once one is free. When none is, the connection that has been idle for longest ends, or the
    /// next one that becomes idle.
    pub async fn take(self: &Arc<Self>) -> Option<Place> {
        self.come();
        let permit = Arc::clone(&self.free).acquire_owned().await;
        lock(&self.waits).coming -= 1;
        Some(Place {
            places: Arc::clone(self),
            client: Arc::default(),
            is_unread: AtomicBool::new(false),
            _permit: permit.ok()?,
        })
    }

    fn come(&self) {
        let mut waits = lock(&self.waits);
        waits.coming += 1;
        let coming = waits.coming;
        if coming > self.free.available_permits() + waits.ending
            && let Some(client) = waits.idle.pop_front()
        {
            waits.ask_to_end(&client);
        }
    }

    /// Waits until all are free.
    pub async fn all(&self) {
        // Nobody closes the semaphore.
        let _ = self.free.acquire_many(self.count).await;
    }
}

impl Waits {
    fn ask_to_end(&mut self, client: &Client) {
        self.ending += 1;
        client.is_asked.store(true, Ordering::Relaxed);
        client.end.notify_one();
    }
}

impl Place {
    /// A request has come.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut waits = lock(&self.places.waits);
        waits.idle.retain(|client| !Arc::ptr_eq(client, &self.client));
        Busy(Arc::clone(self))
    }

    /// Waits until another client needs the place.
    pub async fn is_needed(&self) {
        if !self.client.is_asked.load(Ordering::Relaxed) {
            self.client.end.notified().await;
        }
    }

    /// Notes whether the client may still send of what was refused.
    pub fn note(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::Relaxed);
    }

    /// Whether it may.
    pub fn is_unread(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed)
    }
}

impl Busy {
    /// With the body of the answer.
    pub fn until(self, body: Body) -> Answer {
        Answer { body, _busy: self }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Place { places, client, .. } = &*self.0;
        if client.is_asked.load(Ordering::Relaxed) {
            return;
        }
        let mut waits = lock(&places.waits);
        match waits.coming > places.free.available_permits() + waits.ending {
            true => waits.ask_to_end(client),
            false => waits.idle.push_back(Arc::clone(client)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waits = lock(&self.places.waits);
        waits.idle.retain(|client| !Arc::ptr_eq(client, &self.client));
        if self.client.is_asked.load(Ordering::Relaxed) {
            waits.ending -= 1;
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A place for who comes now, if there is one.
    fn take(places: &Arc<Places>) -> Arc<Place> {
        Arc::new(places.take().now_or_never().flatten().expect("one is free"))
    }

    fn is_needed(place: &Place) -> bool {
        place.is_needed().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_connection_gives_its_place_and_no_other() {
        let places = Places::new(3);
        let all: Vec<_> = (0..3).map(|_| take(&places)).collect();
        // The last has not asked for anything yet; the first asked again.
        for index in [0, 1, 0] {
            drop(all[index].busy());
        }
        let busy = all[2].busy();
        let mut next = Box::pin(places.take());
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!([0, 1, 2].map(|index| is_needed(&all[index])), [false, true, false]);
        let mut all = all.into_iter();
        let first = all.next();
        drop(all.next());
        let fourth = next.now_or_never().flatten().expect("its place is free");
        // Nobody waits any more.
        drop(busy);
        assert!(!is_needed(&all.next().expect("it is there")));
        assert!(places.all().now_or_never().is_none());
        drop((first, fourth));
        assert!(places.all().now_or_never().is_some());
    }

    #[test]
    fn where_all_are_busy_the_first_that_is_not_gives_its_place() {
        let places = Places::new(1);
        let place = take(&places);
        let busy = place.busy();
        let mut next = Box::pin(places.take());
        assert!(next.as_mut().now_or_never().is_none());
        assert!(!is_needed(&place));
        drop(busy);
        assert!(is_needed(&place));
        // A last request that came at the same time is still answered.
        drop(place.busy());
        drop(place);
        assert!(next.now_or_never().is_some());
        assert!(places.all().now_or_never().is_some());
    }
}
