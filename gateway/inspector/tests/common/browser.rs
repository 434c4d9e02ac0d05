//! Headless Chromium, driven over the DevTools protocol.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

/// Longest wait for what a page is to show.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    _process: Child,
    profile: PathBuf,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Browser {
    pub(crate) async fn open() -> Option<Self> {
        let programs = ["chromium", "chromium-browser", "google-chrome"];
        let paths = std::env::var_os("PATH")?;
        let mut found = std::env::split_paths(&paths)
            .flat_map(|folder| programs.map(|program| folder.join(program)));
        let Some(program) = found.find(|path| path.is_file()) else {
            println!("no Chromium in PATH: the page is not looked at");
            return None;
        };
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "chromium-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut process = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-port=0",
            ])
            .args([
                "--no-first-run",
                "--disable-dev-shm-usage",
                "--window-size=1280,900",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            loop {
                let line = lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("Chromium has ended");
                if let Some((_, address)) = line.split_once("listening on ") {
                    break address.to_owned();
                }
            }
        });
        let address = address.await.expect("Chromium says no address");
        // What it writes later has to go somewhere.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let host = address
            .trim_start_matches("ws://")
            .split('/')
            .next()
            .unwrap();
        let stream = TcpStream::connect(host).await.unwrap();
        let (socket, _) = client_async(address.as_str(), stream).await.unwrap();
        let mut browser = Self {
            socket,
            session: String::new(),
            last: 0,
            _process: process,
            profile,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let to = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", to).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser.call("Page.enable", json!({})).await;
        Some(browser)
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut call = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = self.session.as_str().into();
        }
        let call = tungstenite::Message::text(call.to_string());
        self.socket.send(call).await.unwrap();
        let answered = timeout(LIMIT, async {
            loop {
                let message = self.socket.next().await.unwrap().unwrap();
                let Ok(text) = message.to_text() else {
                    continue;
                };
                let message: Value = serde_json::from_str(text).unwrap_or_default();
                if message["id"] == self.last {
                    assert!(message.get("error").is_none(), "{method}: {message}");
                    break message["result"].clone();
                }
            }
        });
        answered.await.expect(method)
    }

    pub(crate) async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.wait("document.body?.dataset.ready === 'true'").await;
    }

    /// The value of an expression on the page.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Presses a key, as a person does; `text` is what it writes.
    pub(crate) async fn press(&mut self, key: &str, number: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Writes a picture of the page into the folder that `INSPECTOR_SCREENSHOTS` names, if it does, in the colours of `scheme`.
    pub(crate) async fn picture(&mut self, name: &str, scheme: &str) {
        /// Most bytes of a picture in a document.
        const MOST: usize = 150 * 1024;
        let Some(folder) = std::env::var_os("INSPECTOR_SCREENSHOTS") else {
            return;
        };
        let size = json!({"width": 1100, "height": 640, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
        let png = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let png = STANDARD.decode(png["data"].as_str().unwrap()).unwrap();
        assert!(png.len() < MOST, "{name} has {} bytes", png.len());
        std::fs::write(Path::new(&folder).join(name), png).unwrap();
    }

    /// Waits until an expression is true, frame by frame.
    pub(crate) async fn wait(&mut self, expression: &str) {
        let waited = timeout(LIMIT, async {
            // A page that is just being replaced answers nothing of use.
            while self.value(&format!("Boolean({expression})")).await != true {
                self.value("new Promise((done) => setTimeout(done, 20))")
                    .await;
            }
        });
        assert!(waited.await.is_ok(), "not true: {expression}");
    }
}
