//! The page in headless Chromium, over the DevTools protocol. Without a browser the tests say so and are passed over.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

#[path = "common/browser.rs"]
mod browser;

use std::sync::Arc;

use extproc_client::http::Request;
use gateway_inspector::{Inspector, Settings};
use serde_json::json;

use self::{browser::Browser, common::*};

/// Markup that runs a script, in each place where a text may end up.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";

async fn page(inspector: &Arc<Inspector>) -> String {
    let (address, _) = serve(inspector, "127.0.0.1:0").await;
    format!("http://{address}/")
}

#[tokio::test]
async fn markup_is_shown_as_text() {
    let mut settings = Settings::default();
    settings.bodies = 1024;
    let inspector = inspector(settings);
    let request = Request::builder()
        .uri("http://shop.test/%3Cimg%20src=x%3E?a=%3Cscript%3E")
        .header("x-hostile", HOSTILE);
    let processor = Scripted::new(|request| {
        use extproc_client::envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
        match request.request {
            Some(Request::RequestHeaders(_)) => {
                vec![request_headers(&[("x-new", HOSTILE), (HOSTILE, "1")])]
            }
            _ => vec![response_headers(&[("x-back", HOSTILE)])],
        }
    });
    send(&inspector, config(""), processor, request).await;
    let url = page(&inspector).await;
    // The list of a browser without scripts.
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    let plain = ask(address, "GET /", &[]).await;
    assert!(
        !plain.contains("<img") && !plain.contains("<script>"),
        "{plain}"
    );

    let Some(mut browser) = Browser::open().await else {
        return;
    };
    browser.go(&url).await;
    browser.wait("document.querySelector('.row')").await;
    browser
        .value("document.querySelector('.row').click()")
        .await;
    browser.wait("document.querySelector('#detail svg')").await;
    browser
        .value("document.querySelectorAll('#detail details').forEach((d) => { d.open = true; })")
        .await;
    browser
        .wait("document.querySelector('#detail details pre')")
        .await;
    for format in ["curl", "fake-proxy", "scenario", "json"] {
        let press = format!("document.querySelector('[data-format={format}]').click()");
        browser.value(&press).await;
    }
    browser
        .wait("document.querySelector('#detail .tools + pre').textContent")
        .await;
    let seen = browser
        .value(
            "({title: document.title, markup: document.querySelectorAll('main img, main script').length, \
              text: document.querySelector('#detail').textContent})",
        )
        .await;
    assert_eq!(seen["title"], "Exchanges");
    assert_eq!(seen["markup"], 0);
    assert!(seen["text"].as_str().unwrap().contains(HOSTILE));
}

#[tokio::test]
async fn a_person_finds_and_takes_away() {
    let inspector = inspector(Settings::default());
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    browser.go(&url).await;
    // What comes while the page is open.
    for n in 0..30 {
        send(
            &inspector,
            config(""),
            obliging(),
            get(&format!("/fine/{n}")),
        )
        .await;
    }
    let processor = Scripted::new(|_| vec![response_headers(&[])]);
    send(&inspector, config(""), processor, get("/broken")).await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/broken')")
        .await;
    assert_eq!(
        browser
            .value("document.querySelectorAll('.row.problem').length")
            .await,
        1
    );

    // The filter is kept in the address.
    let filter = "const f = document.getElementById('filter'); f.value = 'fine/7'; \
                  f.dispatchEvent(new Event('input'))";
    browser.value(&format!("{{ {filter} }}")).await;
    browser
        .wait("document.querySelectorAll('.row').length === 1")
        .await;
    assert_eq!(browser.value("location.search").await, "?filter=fine%2F7");
    browser.value("{ document.getElementById('filter').value = ''; document.getElementById('problems').click() }").await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/broken')")
        .await;

    // The keys, and the cause in words.
    browser.value("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}))").await;
    browser
        .wait("document.querySelector('#detail .verdict')")
        .await;
    let verdict = browser
        .value("document.querySelector('#detail .verdict').textContent")
        .await;
    assert!(
        verdict
            .as_str()
            .unwrap()
            .contains("the reply fits no message that waits for one"),
        "{verdict}"
    );
    let lanes = browser
        .value("document.querySelectorAll('#detail svg .life').length")
        .await;
    assert_eq!(lanes, 4);
    let live = browser
        .value("document.querySelector('#processors').textContent")
        .await;
    assert!(live.as_str().unwrap().contains("authz"), "{live}");

    browser
        .value("document.querySelector('[data-format=curl]').click()")
        .await;
    browser
        .wait("document.querySelector('#detail pre').textContent.includes('curl -i -X')")
        .await;

    for scheme in ["light", "dark"] {
        browser
            .picture(&format!("inspector-{scheme}.png"), scheme)
            .await;
    }

    // A narrow window shows one of the two, and nothing to the side of it.
    let narrow = json!({"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser
        .call("Emulation.setDeviceMetricsOverride", narrow)
        .await;
    browser
        .wait("document.documentElement.scrollWidth <= 400")
        .await;
    browser
        .wait("getComputedStyle(document.getElementById('list')).display === 'none'")
        .await;
}

#[tokio::test]
async fn ten_thousand_exchanges() {
    let mut settings = Settings::default();
    settings.exchanges = 10_000;
    settings.bytes = 512 * 1024 * 1024;
    let inspector = inspector(settings);
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    for n in 0..10_000 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    let url = page(&inspector).await;
    browser.go(&url).await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/9999')")
        .await;
    let rows = browser
        .value("document.querySelectorAll('.row').length")
        .await;
    assert!(
        rows.as_u64().unwrap() < 100,
        "only what can be seen is there: {rows}"
    );
    browser
        .value("{ const l = document.getElementById('list'); l.scrollTop = l.scrollHeight; }")
        .await;
    browser
        .wait(
            "[...document.querySelectorAll('.row')].at(-1).textContent.includes('shop.test/0') \
        || [...document.querySelectorAll('.row')].at(-1).textContent.includes('/0')",
        )
        .await;
    // The page is left open: the oldest go from it as well.
    for n in 10_000..10_100 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    browser
        .value("{ document.getElementById('list').scrollTop = 0; }")
        .await;
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/10099')")
        .await;
    let height = browser
        .value("document.querySelector('#list .window').style.height")
        .await;
    assert_eq!(height, "440000px");
}

#[tokio::test]
async fn one_page_too_many_says_so() {
    let inspector = inspector(Settings::default());
    let url = page(&inspector).await;
    let Some(mut browser) = Browser::open().await else {
        return;
    };
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .unwrap();
    send(&inspector, config(""), obliging(), get("/there")).await;
    let mut pages = Vec::new();
    for _ in 0..16 {
        let mut socket = asked(address, "GET /exchanges/stream", &[]).await;
        tokio::io::AsyncReadExt::read_u8(&mut socket).await.unwrap();
        pages.push(socket);
    }
    browser.go(&url).await;
    browser
        .wait("document.getElementById('state').textContent.includes('too many pages are open')")
        .await;
    // What is there is shown all the same.
    browser
        .wait("document.querySelector('.row')?.textContent.includes('/there')")
        .await;
}
