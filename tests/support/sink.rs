//! A strict remote write receiver inside the test: it takes every request apart, remembers it, and answers as it is told.
//!
//! A request is stored before it is answered, as real storages do: when the answer is lost, the data is there all the same.
//! What is stored is judged on its way in, by series: *repeated* is a sample which is there already, *conflicting* one with
//! another value at the same time, *out of order* any other one that is older than the newest.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use promrelay::protocol::messages::{v1, v2};
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::request::Protocol;
use super::{eventually, free_address};

/// Longer ones are noise of a test, and would be kept with every sample.
const VALUE_BYTES_SHOWN_MAX: usize = 256;

/// What to do with one request.
#[derive(Clone, Debug)]
pub struct Answer {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: String,
    delay: Duration,
    stores: bool,
    /// Of each sample, if not all of them are stored.
    keeps: Option<Vec<bool>>,
    written: bool,
}

impl Answer {
    /// This status; a 2xx stores the data first.
    pub fn status(status: u16) -> Self {
        let stores = (200..300).contains(&status);
        Answer {
            status: Some(status),
            headers: Vec::new(),
            body: String::new(),
            delay: Duration::ZERO,
            stores,
            keeps: None,
            written: true,
        }
    }

    /// Closes the connection instead of an answer; stores nothing unless told to.
    pub fn hang_up() -> Self {
        Answer { status: None, ..Answer::status(503) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, text: &str) -> Self {
        self.body = text.into();
        self
    }

    /// Time between storing and answering.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Stores the data, or not, whatever the status says.
    pub fn storing(mut self, stores: bool) -> Self {
        self.stores = stores;
        self
    }

    /// Stores these samples of the request and no others; `*-Written` headers count them.
    pub fn keeping(mut self, keeps: Vec<bool>) -> Self {
        self.stores = true;
        self.keeps = Some(keeps);
        self
    }

    /// No `*-Written` headers to a 2.0 request.
    pub fn without_written(mut self) -> Self {
        self.written = false;
        self
    }
}

/// One sample or histogram as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// `name{label="value"}` as in a text of metrics; of a long value only the hash.
    pub series: Arc<str>,
    pub timestamp: i64,
    /// Of a histogram: its sum.
    pub value: f64,
    pub is_histogram: bool,
    /// How often it had been stored before.
    pub copies: u32,
    pub is_stored: bool,
}

/// One request, in order of arrival.
#[derive(Clone, Debug)]
pub struct Received {
    /// Counted from 0.
    pub number: usize,
    pub at: Instant,
    pub protocol: Protocol,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub samples: Vec<Sample>,
    pub exemplars: usize,
    pub metadata: usize,
    /// The answer's status; `None` when the connection was closed instead.
    pub status: Option<u16>,
    /// Or some of it.
    pub is_stored: bool,
}

/// What was found in the stored data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All samples and histograms, repeated ones with them.
    pub samples: u64,
    pub repeated: u64,
    pub conflicting: u64,
    pub out_of_order: u64,
}

type Script = Box<dyn FnMut(&Received) -> Answer + Send>;

#[derive(Default)]
struct State {
    requests: Vec<Received>,
    series: HashMap<Arc<str>, BTreeMap<i64, Vec<u64>>>,
    counts: Counts,
    faults: Vec<String>,
    queue: VecDeque<Answer>,
    questions: usize,
    script: Option<Script>,
}

/// The receiver. Clones are the same one.
#[derive(Clone)]
pub struct Sink {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    connections: Arc<watch::Sender<usize>>,
    server: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Sink {
    /// A receiver on a free port.
    pub async fn start() -> Sink {
        let sink = Sink {
            address: free_address(),
            state: Arc::default(),
            connections: Arc::new(watch::Sender::new(0)),
            server: Arc::default(),
        };
        sink.start_again().await;
        sink
    }

    /// Listens again after [`stop`](Self::stop), at the same address.
    pub async fn start_again(&self) {
        // A process that is being started has, for a moment, all that this one has open: also the listener that tried the port.
        let listen = async || {
            let socket = TcpSocket::new_v4().ok()?;
            socket.set_reuseaddr(true).ok()?;
            socket.bind(self.address).ok()?;
            socket.listen(1024).ok()
        };
        let listener = eventually("the sink listens", Duration::from_secs(10), listen).await;
        let task = tokio::spawn(self.clone().serve(listener));
        assert!(self.server.lock().unwrap().replace(task).is_none(), "the sink listens already");
    }

    /// Stops listening and cuts every connection, as a crash would.
    pub async fn stop(&self) {
        let task = self.server.lock().unwrap().take().expect("the sink listens");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled(), "the sink has panicked");
        self.disconnected().await;
    }

    /// Waits until nobody is connected: what is in [`requests`](Self::requests) then is all that came.
    pub async fn disconnected(&self) {
        let mut connections = self.connections.subscribe();
        let none = tokio::time::timeout(Duration::from_secs(10), connections.wait_for(|open| *open == 0)).await;
        none.expect("connections end").unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Decides every answer from now on. Without a script it is 204.
    pub fn script(&self, script: impl FnMut(&Received) -> Answer + Send + 'static) {
        self.lock().script = Some(Box::new(script));
    }

    /// Decides every answer from now on to a request with samples in it. An empty one, which only asks whether the target is sane, is
    /// answered with 204.
    pub fn script_for_data(&self, mut script: impl FnMut(&Received) -> Answer + Send + 'static) {
        self.script(move |request| if request.samples.is_empty() { Answer::status(204) } else { script(request) });
    }

    /// Answers the next requests with samples in them so, and all others with 204.
    pub fn answer_data_in_turn(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        self.script_for_data(move |_| answers.pop_front().unwrap_or_else(|| Answer::status(204)));
    }

    /// One answer, given before the script is asked; several are given one after the other.
    pub fn push(&self, answer: Answer) {
        self.lock().queue.push_back(answer);
    }

    /// Answers that were pushed and not yet given.
    pub fn unused_answers(&self) -> usize {
        self.lock().queue.len()
    }

    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// What no sender may do: each was answered with an error.
    pub fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Empty requests so far: they are not among the others.
    pub fn questions(&self) -> usize {
        self.lock().questions
    }

    /// Requests so far.
    pub fn arrived(&self) -> usize {
        self.lock().requests.len()
    }

    /// All requests, oldest first.
    pub fn requests(&self) -> Vec<Received> {
        self.lock().requests.clone()
    }

    /// Requests with samples in them, oldest first: not those that only ask whether the target is sane.
    pub fn with_samples(&self) -> Vec<Received> {
        self.lock().requests.iter().filter(|request| !request.samples.is_empty()).cloned().collect()
    }

    /// The stored samples of a series in the order in which they arrived.
    pub fn samples(&self, series: &str) -> Vec<(i64, f64)> {
        let state = self.lock();
        let samples = state.requests.iter().flat_map(|request| &request.samples);
        let stored = samples.filter(|sample| sample.is_stored);
        stored.filter(|sample| &*sample.series == series).map(|sample| (sample.timestamp, sample.value)).collect()
    }

    /// Waits until so many samples are stored.
    pub async fn stored(&self, samples: u64, within: Duration) {
        let what = format!("{samples} samples are stored");
        eventually(&what, within, async || (self.counts().samples >= samples).then_some(())).await;
    }

    /// No fault, nothing out of order, no conflict. Repeated samples are for the test to judge.
    pub fn assert_strict(&self) {
        let state = self.lock();
        assert_eq!(state.faults, Vec::<String>::new(), "faults of the sender");
        assert_eq!((state.counts.out_of_order, state.counts.conflicting), (0, 0), "{:?}", state.counts);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no script panics")
    }

    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            while connections.try_join_next().is_some() {}
            let sink = self.clone();
            let open = Open::new(&self.connections);
            connections.spawn(async move {
                let _open = open;
                let service = service_fn(|request| sink.answer(request));
                let connection = hyper::server::conn::http1::Builder::new();
                // An error is a peer that went away, or an answer that hangs up.
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, HungUp> {
        let (head, body) = request.into_parts();
        // A request whose body does not come whole has not come at all.
        let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
        let (answer, written) = match Content::read(&head, &body) {
            Ok(content) => {
                let protocol = content.protocol;
                let (answer, written) = self.lock().take(head, body, content);
                (answer, (protocol == Protocol::V2).then_some(written))
            }
            Err(Fault { status, text }) => {
                self.lock().faults.push(format!("{text}: {head:?}"));
                (Answer::status(status).body(&text), None)
            }
        };
        tokio::time::sleep(answer.delay).await;
        let Some(status) = answer.status else { return Err(HungUp) };
        let mut response = hyper::Response::new(Full::from(answer.body));
        *response.status_mut() = status.try_into().unwrap();
        if let Some(written) = written.filter(|_| answer.written) {
            for (kind, count) in ["samples", "histograms", "exemplars"].into_iter().zip(written) {
                let name = HeaderName::try_from(format!("x-prometheus-remote-write-{kind}-written")).unwrap();
                response.headers_mut().insert(name, HeaderValue::from(count));
            }
        }
        for (name, value) in answer.headers {
            response.headers_mut().insert(HeaderName::try_from(name).unwrap(), value.try_into().unwrap());
        }
        Ok(response)
    }
}

impl State {
    /// Decides on a request, remembers it, and stores it if the decision says so. How many samples, histograms and exemplars were
    /// stored.
    fn take(&mut self, head: Parts, body: Bytes, content: Content) -> (Answer, [usize; 3]) {
        let mut request = Received {
            number: self.requests.len(),
            at: Instant::now(),
            protocol: content.protocol,
            path: head.uri.path().into(),
            headers: head.headers,
            body,
            samples: content.samples,
            exemplars: content.exemplars,
            metadata: content.metadata,
            status: None,
            is_stored: false,
        };
        // A question whether the target is sane: no answer that was meant for data is used up by it, and no test counts it.
        let is_question = request.samples.is_empty() && request.exemplars == 0 && request.metadata == 0;
        let pushed = if is_question { None } else { self.queue.pop_front() };
        let answer = match (pushed, &mut self.script) {
            (Some(answer), _) => answer,
            (None, Some(script)) => script(&request),
            (None, None) => Answer::status(204),
        };
        if is_question {
            self.questions += 1;
            return (answer, [0; 3]);
        }
        request.status = answer.status;
        request.is_stored = answer.stores && answer.keeps.as_ref().is_none_or(|keeps| keeps.contains(&true));
        let mut written = [0, 0, if answer.stores { request.exemplars } else { 0 }];
        for (place, (sample, bits)) in request.samples.iter_mut().zip(content.bits).enumerate() {
            if answer.stores && answer.keeps.as_ref().is_none_or(|keeps| keeps[place]) {
                self.store(sample, bits);
                written[usize::from(sample.is_histogram)] += 1;
            }
        }
        self.requests.push(request);
        (answer, written)
    }

    fn store(&mut self, sample: &mut Sample, bits: u64) {
        let stored = self.series.entry(sample.series.clone()).or_default();
        let newest = stored.last_key_value().map(|(timestamp, _)| *timestamp);
        let values = stored.entry(sample.timestamp).or_default();
        sample.copies = values.iter().filter(|value| **value == bits).count().try_into().unwrap();
        self.counts.samples += 1;
        if sample.copies > 0 {
            self.counts.repeated += 1;
        } else if !values.is_empty() {
            self.counts.conflicting += 1;
        } else if newest.is_some_and(|newest| sample.timestamp < newest) {
            self.counts.out_of_order += 1;
        }
        values.push(bits);
        sample.is_stored = true;
    }
}

/// The service's error: hyper closes the connection.
#[derive(Debug)]
struct HungUp;

impl std::fmt::Display for HungUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to hang up")
    }
}

impl std::error::Error for HungUp {}

/// One open connection.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(connections: &Arc<watch::Sender<usize>>) -> Open {
        connections.send_modify(|open| *open += 1);
        Open(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// What a sender did wrong, and how it is told.
struct Fault {
    status: u16,
    text: String,
}

fn fault<T>(status: u16, text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { status, text: text.into() })
}

/// A request taken apart.
struct Content {
    protocol: Protocol,
    samples: Vec<Sample>,
    /// Of each sample: equal if and only if the samples are equal.
    bits: Vec<u64>,
    exemplars: usize,
    metadata: usize,
}

impl Content {
    fn read(head: &Parts, body: &[u8]) -> Result<Content, Fault> {
        let header = |name: &str| match head.headers.get_all(name).iter().collect::<Vec<_>>()[..] {
            [value] => Ok(value.to_str().unwrap_or("not text")),
            [] => fault(400, format!("no {name}")),
            _ => fault(400, format!("several {name}")),
        };
        if head.method != hyper::Method::POST {
            return fault(405, "not a POST");
        }
        if header("content-encoding")? != "snappy" {
            return fault(415, "not snappy");
        }
        let content_type = header("content-type")?;
        let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.content_type() == content_type) else {
            return fault(415, "unknown content type");
        };
        if header("x-prometheus-remote-write-version")? != protocol.version() {
            return fault(400, "version and content type differ");
        }
        if !header("user-agent")?.contains('/') {
            return fault(400, "no product in user-agent");
        }
        let Ok(message) = snap::raw::Decoder::new().decompress_vec(body) else {
            return fault(400, "broken snappy");
        };
        let mut content = Content { protocol, samples: Vec::new(), bits: Vec::new(), exemplars: 0, metadata: 0 };
        match protocol {
            Protocol::V1 => match v1::WriteRequest::decode(&*message) {
                Ok(message) => content.read_v1(message)?,
                Err(error) => return fault(400, format!("not a 1.0 message: {error}")),
            },
            Protocol::V2 => match v2::Request::decode(&*message) {
                Ok(message) => content.read_v2(message)?,
                Err(error) => return fault(400, format!("not a 2.0 message: {error}")),
            },
        }
        Ok(content)
    }

    fn read_v1(&mut self, message: v1::WriteRequest) -> Result<(), Fault> {
        self.metadata = message.metadata.len();
        for entry in message.timeseries {
            let labels = entry.labels.iter().map(|label| (label.name.as_str(), label.value.as_str()));
            let series = series_name(labels)?;
            self.exemplars += entry.exemplars.len();
            for sample in entry.samples {
                self.add(&series, sample.timestamp, sample.value, None);
            }
            for histogram in entry.histograms {
                self.add(&series, histogram.timestamp, histogram.sum, Some(histogram.encode_to_vec()));
            }
        }
        Ok(())
    }

    fn read_v2(&mut self, message: v2::Request) -> Result<(), Fault> {
        let v2::Request { symbols, timeseries } = message;
        if symbols.first().is_some_and(|first| !first.is_empty()) || (symbols.is_empty() && !timeseries.is_empty()) {
            return fault(400, "the first symbol is not empty");
        }
        if symbols.iter().collect::<HashSet<_>>().len() < symbols.len() {
            return fault(400, "a symbol comes twice");
        }
        let symbol = |place: u32| match symbols.get(place as usize) {
            Some(text) => Ok(text.as_str()),
            None => fault(400, format!("no symbol {place} among {}", symbols.len())),
        };
        for entry in timeseries {
            if !entry.labels_refs.len().is_multiple_of(2) {
                return fault(400, "an odd number of references");
            }
            let texts: Vec<&str> = entry.labels_refs.iter().map(|place| symbol(*place)).collect::<Result<_, _>>()?;
            let series = series_name(texts.chunks(2).map(|label| (label[0], label[1])))?;
            if !entry.samples.is_empty() && !entry.histograms.is_empty() {
                return fault(400, format!("samples and histograms in one entry of {series}"));
            }
            for place in entry.exemplars.iter().flat_map(|exemplar| &exemplar.labels_refs) {
                symbol(*place)?;
            }
            if let Some(metadata) = &entry.metadata {
                symbol(metadata.help_ref)?;
                symbol(metadata.unit_ref)?;
                self.metadata += 1;
            }
            self.exemplars += entry.exemplars.len();
            for sample in entry.samples {
                self.add(&series, sample.timestamp, sample.value, None);
            }
            for histogram in entry.histograms {
                self.add(&series, histogram.timestamp, histogram.sum, Some(histogram.encode_to_vec()));
            }
        }
        Ok(())
    }

    fn add(&mut self, series: &Arc<str>, timestamp: i64, value: f64, histogram: Option<Vec<u8>>) {
        let is_histogram = histogram.is_some();
        self.bits.push(histogram.map_or(value.to_bits(), |bytes| xxhash_rust::xxh3::xxh3_64(&bytes)));
        self.samples.push(Sample {
            series: series.clone(),
            timestamp,
            value,
            is_histogram,
            copies: 0,
            is_stored: false,
        });
    }
}

/// `name{label="value"}`; an error for labels that no sender may send.
fn series_name<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Arc<str>, Fault> {
    let (mut name, mut rest, mut before) = ("", String::new(), "");
    for (label, value) in labels {
        if label.is_empty() || value.is_empty() {
            return fault(400, format!("an empty label: {label:?}={value:?}"));
        }
        if label <= before {
            return fault(400, format!("label {label} after {before}"));
        }
        before = label;
        if label == "__name__" {
            name = value;
        } else {
            let comma = if rest.is_empty() { "" } else { "," };
            match value.len() {
                ..=VALUE_BYTES_SHOWN_MAX => write!(rest, "{comma}{label}={value:?}").unwrap(),
                _ => write!(rest, "{comma}{label}={:#x}", xxhash_rust::xxh3::xxh3_128(value.as_bytes())).unwrap(),
            }
        }
    }
    if name.is_empty() {
        return fault(400, format!("no name: {{{rest}}}"));
    }
    Ok(if rest.is_empty() { name.into() } else { format!("{name}{{{rest}}}").into() })
}
