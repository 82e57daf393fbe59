//! Code to paste for the official USMP libraries (Python 1.x, Arduino 1.x, ESP-IDF component 1.x).

use std::net::SocketAddr;

use sluice_types::{DeviceId, Psk};

use crate::args::Platform;

/// Stands where the key would be when it is not shown.
const PLACEHOLDER: &str = "PUT-THE-KEY-OF-THIS-DEVICE-HERE";

/// What a snippet is made of.
pub(crate) struct Snippet<'a> {
    pub(crate) platform: Platform,
    pub(crate) device: DeviceId,
    /// `None`: a placeholder is shown.
    pub(crate) psk: Option<&'a Psk>,
    /// Where the device dials.
    pub(crate) server: SocketAddr,
}

/// Why a snippet cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnippetError {
    #[error(
        "the Arduino library takes a key as text, and the key of {0} has bytes that are no letters, digits, `-` or `_`: \
         give the device a text key (`sluice device add ID --psk-format text`)"
    )]
    KeyIsNotText(DeviceId),
}

impl Snippet<'_> {
    /// The program, ready to run or compile once its placeholders are filled.
    pub(crate) fn render(&self) -> Result<String, SnippetError> {
        match self.platform {
            Platform::Python => Ok(self.python()),
            Platform::Arduino => self.arduino(),
            Platform::Idf => Ok(self.idf()),
        }
    }

    fn python(&self) -> String {
        let psk = match self.psk.map(|psk| (psk, text_key(psk))) {
            None => format!("b\"{PLACEHOLDER}\""),
            Some((_, Some(text))) => format!("b\"{text}\""),
            Some((psk, None)) => format!("bytes.fromhex(\"{}\")", hex::encode(psk.expose())),
        };
        let Self { device, server, .. } = self;
        let (host, port) = (server.ip(), server.port());
        format!(
            r#"# pip install usmp
import asyncio
import json

from usmp import USMPClient

DEVICE_ID = bytes.fromhex("{device}")
PSK = {psk}


async def main():
    client = USMPClient("{host}", {port}, psk=PSK, device_id=DEVICE_ID, protocol="udp")
    await client.connect()
    for n in range(10):
        # Over UDP send() returns when Kafka has the record.
        await client.send(json.dumps({{"n": n, "temperature": 20.5}}).encode())
        print("committed", n, flush=True)
        await asyncio.sleep(1)
    await client.disconnect()


asyncio.run(main())
"#
        )
    }

    fn arduino(&self) -> Result<String, SnippetError> {
        let psk = match self.psk {
            None => PLACEHOLDER,
            Some(psk) => text_key(psk).ok_or(SnippetError::KeyIsNotText(self.device))?,
        };
        let Self { device, server, .. } = self;
        let (host, port) = (server.ip(), server.port());
        Ok(format!(
            r#"#include <USMP.h>

// The library names the board by its Wi-Fi station address, which must be {device}
// (usmp.deviceId() prints it).
USMPClient usmp("{psk}");

void setup() {{
  Serial.begin(115200);
  if (!usmp.begin(USMP::UDP("{host}", {port}).wifi("PUT-YOUR-NETWORK-HERE", "PUT-ITS-PASSWORD-HERE"))) {{
    Serial.println("not connected: check network, server and key");
  }}
}}

void loop() {{
  usmp.maintain();
  static unsigned long last = 0;
  if (usmp.alive() && millis() - last > 1000) {{
    last = millis();
    char reading[64];
    snprintf(reading, sizeof(reading), "{{\"uptime_ms\":%lu}}", last);
    // Over UDP send() returns true when Kafka has the record.
    Serial.println(usmp.send(reading) ? "committed" : "not committed");
  }}
}}
"#
        ))
    }

    fn idf(&self) -> String {
        let psk = match self.psk {
            Some(psk) => format!("{{{}}}", c_bytes(psk.expose())),
            None => format!("{{ /* {PLACEHOLDER} */ }}"),
        };
        let Self { device, server, .. } = self;
        let (host, port) = (server.ip(), server.port());
        format!(
            r#"#include <string.h>
#include "esp_log.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "usmp.h"
#include "usmp_transport.h"

// The library names the board by its Wi-Fi station address, which must be {device}.
// A product keeps its key in protected flash, not in its program.
static const uint8_t PSK[] = {psk};

// Call this once the network is up.
void telemetry_task(void *arg)
{{
    for (;; vTaskDelay(pdMS_TO_TICKS(2000))) {{
        usmp_transport_t transport = {{0}};
        usmp_t usmp = {{0}};
        usmp.psk = PSK;
        usmp.psk_len = sizeof(PSK);
        if (usmp_transport_udp_init(&transport, "{host}", {port}) != 0 || usmp_connect(&usmp, &transport) != 0) {{
            ESP_LOGW("usmp", "not connected: check network, server and key");
            continue;
        }}
        const char *reading = "{{\"temperature\":20.5}}";
        // Over UDP usmp_send() returns 0 when Kafka has the record.
        while (usmp_send(&usmp, (const uint8_t *)reading, strlen(reading)) == 0) {{
            ESP_LOGI("usmp", "committed");
            vTaskDelay(pdMS_TO_TICKS(1000));
        }}
        usmp_close(&usmp);
    }}
}}
"#
        )
    }
}

/// The key as the characters of a string in any of these languages, where all of them can stand in one.
fn text_key(psk: &Psk) -> Option<&str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let key = psk.expose();
    key.iter().all(plain).then(|| std::str::from_utf8(key).ok()).flatten()
}

fn c_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("0x{byte:02x}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(platform: Platform, key: Option<&[u8]>) -> Result<String, SnippetError> {
        let psk = key.map(|key| Psk::new(key).expect("a long key"));
        let device = DeviceId::from_bytes([2, 0, 0, 0, 0, 1]);
        Snippet { platform, device, psk: psk.as_ref(), server: ([192, 0, 2, 7], 9001).into() }.render()
    }

    #[test]
    fn every_platform_gets_the_key_in_the_form_it_takes() {
        let text = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_".as_slice();
        let bytes = [0xa5; 32].as_slice();
        let shown = |platform, key| render(platform, Some(key)).expect("a key this platform takes");
        assert!(shown(Platform::Python, text).contains("PSK = b\"abcdefghij"));
        assert!(shown(Platform::Python, bytes).contains("PSK = bytes.fromhex(\"a5a5a5"));
        assert!(shown(Platform::Arduino, text).contains("usmp(\"abcdefghij"));
        assert!(shown(Platform::Idf, bytes).contains("PSK[] = {0xa5, 0xa5"));
    }

    #[test]
    fn an_arduino_sketch_for_a_key_of_bytes_is_refused_with_the_way_out() {
        let refused = render(Platform::Arduino, Some(&[0xa5; 32])).expect_err("bytes are no text");
        assert!(refused.to_string().contains("--psk-format text"), "{refused}");
    }

    #[test]
    fn without_a_key_a_placeholder_stands_in_its_place() {
        for platform in [Platform::Python, Platform::Arduino, Platform::Idf] {
            let shown = render(platform, None).expect("a placeholder always fits");
            assert!(shown.contains(PLACEHOLDER), "{shown}");
            assert!(shown.contains("192.0.2.7") && shown.contains("9001"), "{shown}");
        }
    }
}
