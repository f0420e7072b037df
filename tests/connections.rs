//! Connections to a target, seen from its side: small servers that speak HTTP by hand, and mistreat the connection.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use promrelay::protocol::Protocol;
use promrelay::target::client::{Answered, Client, Connections, Kind, LookUp, Request, Unanswered};
use reqwest::header::HeaderMap;
use support::{eventually, free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// One connection at the target.
struct Peer {
    stream: TcpStream,
    connection: usize,
    requests: Arc<Mutex<Vec<usize>>>,
}

impl Peer {
    /// The head of the next request; `None` at the end of the connection.
    async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.ok()?);
        }
        self.requests.lock().unwrap().push(self.connection);
        Some(String::from_utf8(head).unwrap())
    }

    /// The next request's head and body.
    async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head().await?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((head, body))
    }

    async fn say(&mut self, text: &str) {
        // The other side may have gone away.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }
}

/// A target. It ends with the test's runtime.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<usize>>>,
    closed: Arc<AtomicUsize>,
}

impl Server {
    /// Each connection is given to `handle`, and closed when that returns.
    async fn start<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        handle: impl Fn(Peer) -> F + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Server { address, requests: Arc::default(), closed: Arc::default() };
        let (requests, closed) = (server.requests.clone(), server.closed.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let handled = handle(Peer { stream, connection, requests: requests.clone() });
                let closed = closed.clone();
                tokio::spawn(async move {
                    handled.await;
                    closed.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    /// Answers every request with `answer`.
    async fn answering(address: SocketAddr, answer: &'static str) -> Server {
        Server::start(address, move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.say(answer).await;
            }
        })
        .await
    }

    /// For each request the connection that it came on.
    fn requests(&self) -> Vec<usize> {
        self.requests.lock().unwrap().clone()
    }

    /// When so many connections are closed.
    async fn has_closed(&self, connections: usize) {
        let probe = async || (self.closed.load(Ordering::Relaxed) >= connections).then_some(());
        eventually("the connection is closed", SOON, probe).await;
    }

    fn client(&self) -> Client {
        client(&format!("http://{}", self.address), Connections::default())
    }
}

fn client(url: &str, connections: Connections) -> Client {
    // It installs the TLS provider.
    drop(support::client());
    Client::new(url.parse().unwrap(), HeaderMap::new(), Duration::from_secs(300), connections).unwrap()
}

/// A client for a name that has these addresses, with a new connection for every request.
fn client_of_name(addresses: &[SocketAddr]) -> Client {
    let found = addresses.to_vec();
    let look_up = LookUp::new(move |name| {
        assert_eq!(name, "target.test");
        Ok(found.clone())
    });
    let url = format!("http://target.test:{}", addresses[0].port());
    client(&url, Connections { max_age: Duration::ZERO, look_up, ..Connections::default() })
}

/// The addresses 127.0.0.1, 127.0.0.2, ... with one port.
fn neighbours<const N: usize>() -> [SocketAddr; N] {
    let port = free_address().port();
    std::array::from_fn(|place| SocketAddr::from(([127, 0, 0, u8::try_from(place).unwrap() + 1], port)))
}

fn request(body: Bytes, timeout: Duration) -> Request<'static> {
    Request { body, protocol: Protocol::V1, forwarded: &[], timeout }
}

async fn send_within(client: &Client, timeout: Duration) -> Result<Answered, Unanswered> {
    client.send(request(Bytes::from_static(b"body"), timeout)).await
}

async fn send(client: &Client) -> Result<Answered, Unanswered> {
    send_within(client, SOON).await
}

/// The status of the answer.
async fn status(client: &Client) -> u16 {
    send(client).await.unwrap().answer.status
}

#[tokio::test]
async fn a_request_says_what_it_is() {
    let (heads, said) = mpsc::channel();
    let server = Server::start(free_address(), move |mut peer| {
        let heads = heads.clone();
        async move {
            while let Some(request) = peer.request().await {
                heads.send(request).unwrap();
                peer.say(NO_CONTENT).await;
            }
        }
    })
    .await;
    let request =
        Request { body: Bytes::from_static(b"some bytes"), protocol: Protocol::V2, forwarded: &[], timeout: SOON };
    let client = server.client();
    client.send(request.clone()).await.unwrap();
    let (head, body) = said.recv().unwrap();
    assert_eq!(body, b"some bytes");
    for line in [
        "POST / HTTP/1.1",
        "content-encoding: snappy",
        "content-type: application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "x-prometheus-remote-write-version: 2.0.0",
        "content-length: 10",
    ] {
        assert!(head.lines().any(|other| other == line), "{line} is not in\n{head}");
    }
    let forwarded = [("x-scope-orgid".to_owned(), b"tenant".to_vec())];
    client.send(Request { forwarded: &forwarded, ..request }).await.unwrap();
    let (head, _) = said.recv().unwrap();
    assert!(head.contains("\r\nx-scope-orgid: tenant\r\n"), "{head}");
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = Server::answering(free_address(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = server.client();
    for _ in 0..5 {
        let answered = send(&client).await.unwrap();
        assert_eq!((answered.answer.status, answered.text.as_str()), (200, "ok"));
    }
    assert_eq!(server.requests(), [0; 5]);
}

#[tokio::test]
async fn requests_at_the_same_time_have_connections_of_their_own_which_are_kept() {
    let server = Server::start(free_address(), |mut peer| async move {
        while peer.request().await.is_some() {
            sleep(Duration::from_millis(100)).await;
            peer.say(NO_CONTENT).await;
        }
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        let (a, b, c) = tokio::join!(send(&client), send(&client), send(&client));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
    }
    assert_eq!(server.requests().into_iter().max(), Some(2));
}

#[tokio::test]
async fn a_connection_that_is_old_is_replaced_when_the_next_request_begins() {
    let server = Server::answering(free_address(), NO_CONTENT).await;
    let client = server.client();
    let pass = async |time| {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    };
    status(&client).await;
    pass(Duration::from_secs(47)).await;
    status(&client).await;
    assert_eq!(server.requests(), [0, 0], "60 s give or take a fifth");
    pass(Duration::from_secs(25)).await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 0, "nothing happens without a request");
    status(&client).await;
    assert_eq!(server.requests(), [0, 0, 1]);
    server.has_closed(1).await;
    status(&client).await;
    assert_eq!(server.requests(), [0, 0, 1, 1]);
}

#[tokio::test]
async fn a_request_on_an_old_connection_ends_on_it() {
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let server = Server::start(free_address(), move |mut peer| {
        let released = released.clone();
        async move {
            while peer.request().await.is_some() {
                if peer.connection == 0 {
                    released.notified().await;
                }
                peer.say(NO_CONTENT).await;
            }
        }
    })
    .await;
    let url = format!("http://{}", server.address);
    let client = client(&url, Connections { max_age: Duration::ZERO, ..Connections::default() });
    let first = send(&client);
    tokio::pin!(first);
    let second = async {
        eventually("the first request is there", SOON, async || (server.requests() == [0]).then_some(())).await;
        assert_eq!(status(&client).await, 204);
        release.notify_one();
    };
    let (first, ()) = tokio::join!(&mut first, second);
    assert_eq!(first.unwrap().answer.status, 204);
    assert_eq!(server.requests(), [0, 1]);
    server.has_closed(1).await;
}

#[tokio::test]
async fn addresses_of_a_name_are_used_in_turn() {
    let addresses: [_; 2] = neighbours();
    let (one, two) =
        (Server::answering(addresses[0], NO_CONTENT).await, Server::answering(addresses[1], NO_CONTENT).await);
    let client = client_of_name(&addresses);
    for sent in 1..=6 {
        assert_eq!(status(&client).await, 204);
        let (one, two) = (one.requests().len(), two.requests().len());
        assert!(one + two == sent && one.abs_diff(two) <= 1, "{one} and {two}");
    }
}

#[tokio::test]
async fn a_changed_name_is_followed_with_the_next_connection() {
    let addresses: [_; 2] = neighbours();
    let (old, new) =
        (Server::answering(addresses[0], NO_CONTENT).await, Server::answering(addresses[1], NO_CONTENT).await);
    let found = Arc::new(Mutex::new(Err(io::ErrorKind::NotFound)));
    let look_up = {
        let found = found.clone();
        LookUp::new(move |_| found.lock().unwrap().map(|address| vec![address]).map_err(io::Error::from))
    };
    let url = format!("http://target.test:{}", addresses[0].port());
    let client = client(&url, Connections { max_age: Duration::ZERO, look_up, ..Connections::default() });
    let error = send(&client).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Dns, false, false), "{error}");
    *found.lock().unwrap() = Ok(addresses[0]);
    assert_eq!(status(&client).await, 204);
    *found.lock().unwrap() = Ok(addresses[1]);
    assert_eq!(status(&client).await, 204);
    assert_eq!((old.requests(), new.requests()), (vec![0], vec![0]));
}

#[tokio::test]
async fn a_name_without_addresses_is_a_failed_lookup() {
    let look_up = LookUp::new(|_| Ok(Vec::new()));
    let client = client("http://target.test:1", Connections { look_up, ..Connections::default() });
    let error = send(&client).await.unwrap_err();
    assert_eq!((error.kind, error.may_have_arrived), (Kind::Dns, false), "{error}");
}

#[tokio::test]
async fn an_address_that_is_dead_costs_no_attempt_and_its_turns_are_shared_by_the_others() {
    let addresses: [_; 3] = neighbours();
    let (one, two) =
        (Server::answering(addresses[1], NO_CONTENT).await, Server::answering(addresses[2], NO_CONTENT).await);
    let client = client_of_name(&addresses);
    let mut served = Vec::new();
    for _ in 0..9 {
        let before = one.requests().len();
        assert_eq!(status(&client).await, 204);
        served.push(one.requests().len() > before);
    }
    assert_eq!(one.requests().len() + two.requests().len(), 9);
    // Known after its first turn, which is one of the first three.
    assert!(served[3..].windows(2).all(|pair| pair[0] != pair[1]), "not in turn: {served:?}");
}

#[tokio::test]
async fn lookups_that_hang_are_ended_by_the_time_out_and_do_not_pile_up() {
    let begun = Arc::new(AtomicUsize::new(0));
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let look_up = {
        let begun = begun.clone();
        LookUp::new(move |_| {
            begun.fetch_add(1, Ordering::Relaxed);
            let _ = ended.lock().unwrap().recv();
            Err(io::ErrorKind::NotFound.into())
        })
    };
    let client = client("http://target.test:1", Connections { look_up, ..Connections::default() });
    for _ in 0..4 {
        let error = send_within(&client, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Connect, true, false), "{error}");
    }
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    drop(end);
    assert_eq!(send(&client).await.unwrap_err().kind, Kind::Dns);
}

#[tokio::test]
async fn an_answer_that_another_backend_might_not_give_costs_the_connection() {
    for (answer, is_kept) in [
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n", false),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n", true),
        ("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n", true),
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", true),
    ] {
        let server = Server::answering(free_address(), answer).await;
        let client = server.client();
        for _ in 0..3 {
            assert_eq!(status(&client).await.to_string(), answer[9..12]);
        }
        assert_eq!(server.requests(), if is_kept { [0, 0, 0] } else { [0, 1, 2] }, "{answer}");
    }
}

#[tokio::test]
async fn after_a_failure_the_next_address_has_its_turn() {
    let addresses: [_; 2] = neighbours();
    let sick = Server::answering(addresses[0], "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await;
    let well = Server::answering(addresses[1], NO_CONTENT).await;
    let found = addresses.to_vec();
    let look_up = LookUp::new(move |_| Ok(found.clone()));
    let url = format!("http://target.test:{}", addresses[0].port());
    let client = client(&url, Connections { look_up, ..Connections::default() });
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(status(&client).await);
    }
    // Where it begins is random.
    assert_eq!(statuses[1..], [204; 4]);
    assert!(sick.requests().len() <= 1);
    assert!(well.requests().iter().all(|connection| *connection == 0));
}

#[tokio::test]
async fn requests_that_fail_together_cost_one_generation() {
    let hang_up = Arc::new(Semaphore::new(0));
    let server = {
        let hang_up = hang_up.clone();
        Server::start(free_address(), move |mut peer| {
            let hang_up = hang_up.clone();
            async move {
                while peer.request().await.is_some() {
                    if peer.connection < 8 {
                        hang_up.acquire().await.unwrap().forget();
                        return;
                    }
                    peer.say(NO_CONTENT).await;
                }
            }
        })
        .await
    };
    let client = Arc::new(server.client());
    let mut requests = JoinSet::new();
    for _ in 0..8 {
        let client = client.clone();
        requests.spawn(async move { send(&client).await });
    }
    eventually("all are under way", SOON, async || (server.requests().len() == 8).then_some(())).await;
    for _ in 0..8 {
        hang_up.add_permits(1);
        let error = requests.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((error.kind, error.may_have_arrived), (Kind::Reset, true), "{error}");
        // After the first failure on a new connection, which is kept whatever the other seven come to.
        assert_eq!(status(&client).await, 204);
    }
    assert_eq!(server.requests()[8..], [8; 8]);
}

#[tokio::test]
async fn after_a_failure_no_connection_of_its_generation_is_used() {
    let server = Server::start(free_address(), |mut peer| async move {
        for request in 0.. {
            match (peer.request().await, peer.connection, request) {
                (None, ..) => return,
                // At the same time, so on two connections.
                (_, 0 | 1, 0) => sleep(Duration::from_millis(100)).await,
                (_, 0 | 1, _) => return,
                _ => {}
            }
            peer.say(NO_CONTENT).await;
        }
    })
    .await;
    let client = server.client();
    let (a, b) = tokio::join!(send(&client), send(&client));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(send(&client).await.unwrap_err().kind, Kind::Reset);
    assert_eq!(status(&client).await, 204);
    assert_eq!(server.requests().last(), Some(&2));
}

#[tokio::test]
async fn an_idle_connection_that_the_target_closed_is_no_failure() {
    let server = Server::start(free_address(), |mut peer| async move {
        peer.request().await;
        peer.say(NO_CONTENT).await;
    })
    .await;
    let client = server.client();
    for sent in 1..=4 {
        assert_eq!(status(&client).await, 204);
        server.has_closed(sent).await;
    }
    assert_eq!(server.requests(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_refused_connection_has_delivered_nothing() {
    let client = client(&format!("http://{}", free_address()), Connections::default());
    let error = send(&client).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Connect, false, false), "{error}");
}

/// The queue of a listener that nobody takes connections from is full: the next one is not answered.
#[tokio::test]
async fn a_connection_that_is_never_made_is_ended_by_the_time_out_and_has_delivered_nothing() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(free_address()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    let url = format!("http://{address}");
    let short = Duration::from_millis(200);
    let of_the_request = (Connections::default(), short);
    let of_the_connection = (Connections { connect_timeout: short, ..Connections::default() }, SOON);
    for (connections, timeout) in [of_the_request, of_the_connection] {
        let begun = Instant::now();
        let error = send_within(&client(&url, connections), timeout).await.unwrap_err();
        assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Connect, true, false), "{error}");
        assert!(begun.elapsed() < SOON / 2);
    }
}

#[tokio::test]
async fn a_handshake_that_fails_has_delivered_nothing() {
    let talks = Server::start(free_address(), |mut peer| async move {
        peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = peer.stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let is_silent = Server::start(free_address(), |mut peer| async move {
        let _ = peer.stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let hangs_up = Server::start(free_address(), |mut peer| async move {
        let _ = peer.stream.read_u8().await;
    })
    .await;
    for (server, kind, timed_out) in
        [(talks, Kind::Tls, false), (is_silent, Kind::Connect, true), (hangs_up, Kind::Connect, false)]
    {
        let client = client(&format!("https://{}", server.address), Connections::default());
        let error = send_within(&client, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (kind, timed_out, false), "{error}");
    }
}

#[tokio::test]
async fn a_target_that_never_answers_is_ended_by_the_time_out_and_may_have_the_request() {
    let server = Server::start(free_address(), |mut peer| async move {
        while peer.request().await.is_some() && peer.connection > 0 {
            peer.say(NO_CONTENT).await;
        }
        let _ = peer.stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let client = server.client();
    let begun = Instant::now();
    let error = send_within(&client, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::TimedOut, true, true), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.has_closed(1).await;
    assert_eq!(status(&client).await, 204);
    assert_eq!(server.requests(), [0, 1]);
}

#[tokio::test]
async fn a_target_that_does_not_read_is_ended_by_the_time_out() {
    let server = Server::start(free_address(), |peer| async move {
        let _peer = peer;
        sleep(SOON).await;
    })
    .await;
    let body = Bytes::from(vec![7; 16 << 20]);
    let error = server.client().send(request(body, Duration::from_millis(500))).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::TimedOut, true, true), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_may_have_delivered_it() {
    let ends = Server::start(free_address(), |mut peer| async move {
        peer.request().await;
    })
    .await;
    let resets = Server::start(free_address(), |mut peer| async move {
        peer.request().await;
        peer.stream.set_zero_linger().unwrap();
    })
    .await;
    let ends_within_the_head = Server::start(free_address(), |mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 204 No Con").await;
    })
    .await;
    for server in [ends, resets, ends_within_the_head] {
        let error = send(&server.client()).await.unwrap_err();
        assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Reset, false, true), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_no_answer() {
    let server = Server::answering(free_address(), "220 mail.test ESMTP\r\n\r\n").await;
    let error = send(&server.client()).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::Other, false, true), "{error}");
}

#[tokio::test]
async fn a_text_that_comes_byte_by_byte_does_not_keep_us_from_the_status() {
    let server = Server::start(free_address(), |mut peer| async move {
        while peer.request().await.is_some() {
            peer.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 1000000\r\n\r\nslow").await;
            while peer.stream.write_all(b".").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    })
    .await;
    let client = server.client();
    for (sent, (timeout, at_most)) in
        [(SOON, Duration::from_secs(5)), (Duration::from_millis(300), Duration::from_millis(900))]
            .into_iter()
            .enumerate()
    {
        let begun = Instant::now();
        let answered = send_within(&client, timeout).await.unwrap();
        assert_eq!(answered.answer.status, 400);
        assert!(answered.text.starts_with("slow."), "{}", answered.text);
        assert!(begun.elapsed() < at_most, "{:?}", begun.elapsed());
        assert!(answered.took < Duration::from_millis(200), "the text is not waited for: {:?}", answered.took);
        assert_eq!(server.requests(), (0..=sent).collect::<Vec<_>>());
        server.has_closed(sent + 1).await;
    }
}

#[tokio::test]
async fn a_status_that_comes_byte_by_byte_is_ended_by_the_time_out() {
    let server = Server::start(free_address(), |mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 204 ").await;
        while peer.stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let error = send_within(&server.client(), Duration::from_millis(400)).await.unwrap_err();
    assert_eq!((error.kind, error.timed_out, error.may_have_arrived), (Kind::TimedOut, true, true), "{error}");
}

#[tokio::test]
async fn a_text_that_is_too_long_is_cut_and_costs_the_connection() {
    let server = Server::start(free_address(), |mut peer| async move {
        while peer.request().await.is_some() {
            peer.say("HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while peer.stream.write_all(b"5\r\nagain\r\n").await.is_ok() {}
        }
    })
    .await;
    let client = server.client();
    let answered = send(&client).await.unwrap();
    assert_eq!((answered.answer.status, answered.text.len()), (400, 1024));
    server.has_closed(1).await;
}

#[tokio::test]
async fn how_long_an_answer_took_is_told() {
    let server = Server::start(free_address(), |mut peer| async move {
        while peer.request().await.is_some() {
            sleep(Duration::from_millis(200)).await;
            peer.say(NO_CONTENT).await;
        }
    })
    .await;
    let took = send(&server.client()).await.unwrap().took;
    assert!(Duration::from_millis(200) <= took && took < Duration::from_secs(5), "{took:?}");
}

/// It answers when it has seen the head, and closes at once: what is still unread makes that a reset.
#[tokio::test]
async fn an_answer_before_the_body_was_read_is_seen() {
    let server = Server::start(free_address(), |mut peer| async move {
        peer.head().await;
        sleep(Duration::from_millis(20)).await;
        peer.say("HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large").await;
    })
    .await;
    let client = server.client();
    let body = Bytes::from(vec![7; 16 << 20]);
    for sent in 0..20 {
        let answered = client.send(request(body.clone(), SOON)).await.unwrap();
        assert_eq!((answered.answer.status, answered.text.as_str()), (413, "too large"), "after {sent}");
    }
    assert_eq!(server.requests(), (0..20).collect::<Vec<_>>());
}
