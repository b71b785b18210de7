//! The bytes of receipts.

use hansa_core::codec::{decode, encode};
use hansa_core::gate::Rule;
use hansa_core::id::Digest;
use hansa_core::limits::{HOPS_MAX, NAME_BYTES_MAX, PARTS_MAX, RECEIPT_BYTES_MAX};
use hansa_core::price::Currency;
use hansa_core::receipt::{Receipt, ReceiptFault, Salt, Side, commit, date, leaf, payload_digest};
use hansa_core::time::Utc;
use hansa_core::wire::TensorMeta;

use crate::world::{key, receipt};

const GOLDEN: &str = "68616e73612f726563656970742f76310a01010101010101010101010101010101014d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d02fdfa505c18a3010000fdd6565c18a3010000028139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3940873657269616c2d32b6ff43ee6bed8cb0f6bdf4d70fd18fd7f50851c092b3aee95d0a9eecf1b28868024652025553094d6172c3a965205341008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0873657269616c2d31912653afa61311d372a54e220fa7311ceea64387782d47a8ff6bb213bbd3f8450544452d42450255530e4e6f72646c6963687420476d624800086d6167696b613a31010303030303030303030303030303030303030303030303030303030303030303040404040404040404040404040404040404040404040404040404040404040401050505050505050505050505050505050505050505050505050505050505050500020303040101b44187ef27eab9b341d2dbb33ab98c850274df48923c27c077c659c4c2ae0eee017c3b82dc16df6a176e5579819919e93814c0d5b75b9531ca7f201f79c828d43cfb0010fb580301126f6e6e7872756e74696d6520312e32342e310363707503fc7011010001455552d2010808080808080808080808080808080801030502ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d10873657269616c2d33a172385c90e73abad39a6c2c055ac46b16e166ed77c4e8a7b1e3814a272bb14c0249450255530848617270204c746400000109090909090909090909090909090909090909090909090909090909090909090005fb2c01014555523200";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let sealed = receipt(1).seal().unwrap();
    assert_eq!(hex(&sealed), GOLDEN);
    assert_eq!(Receipt::open(&sealed), Ok(receipt(1)));
}

#[test]
fn a_receipt_is_a_few_hundred_bytes() {
    let mut receipt = receipt(1);
    receipt.parts.clear();
    receipt.path.remove(0);
    assert!(receipt.seal().unwrap().len() < 400);
}

#[test]
fn another_form_of_the_same_receipt_is_refused() {
    let sealed = receipt(1).seal().unwrap();
    let (head, body) = sealed.split_at(17);
    assert_eq!(head, b"hansa/receipt/v1\n");
    // The attempt, 2, written in three bytes instead of one.
    let attempt = 16 + 17;
    assert_eq!(body[attempt], 2);
    let rejected = encode(&receipt(1).rejected);
    let swapped = [&rejected[..1], &rejected[3..5], &rejected[1..3]].concat();
    assert_eq!(decode::<std::collections::BTreeMap<Rule, u32>>(&swapped).unwrap().len(), 2);
    let at = body.windows(rejected.len()).position(|part| part == rejected).unwrap();
    let end = at + rejected.len();
    let other = [head, &body[..at], &swapped, &body[end..]].concat();
    assert_eq!(Receipt::open(&other), Err(ReceiptFault::NotCanonical));
    // 4,096 bytes in: fb 0010 is the shortest form, fc 00100000 the same number.
    let at = body.windows(3).position(|part| part == [0xfb, 0x00, 0x10]).unwrap();
    let long = [head, &body[..at], &[0xfc, 0, 0x10, 0, 0], &body[at + 3..]].concat();
    assert_eq!(Receipt::open(&long), Err(ReceiptFault::NotCanonical));
    for length in 0..sealed.len() {
        assert!(Receipt::open(&sealed[..length]).is_err(), "{length}");
    }
    assert!(matches!(Receipt::open(&[&sealed[..], &[0]].concat()), Err(ReceiptFault::Codec(_))));
    assert_eq!(
        Receipt::open(&vec![0; RECEIPT_BYTES_MAX + 1]).unwrap_err().to_string(),
        "receipt of 32769 bytes, the limit is 32768"
    );
}

/// A currency as no honest encoder writes one.
fn no_code() -> Currency {
    decode(b"eur").unwrap()
}

#[test]
fn what_cannot_be_is_neither_sealed_nor_read() {
    type Change = fn(&mut Receipt);
    let changes: [Change; 13] = [
        |receipt| receipt.path.clear(),
        |receipt| receipt.path = vec![receipt.path[0].clone(); usize::from(HOPS_MAX) + 2],
        |receipt| receipt.parts = vec![receipt.parts[0].clone(); PARTS_MAX + 1],
        |receipt| receipt.ended = Utc(receipt.started.0 - 1),
        |receipt| receipt.ended = Utc(u64::MAX),
        |receipt| receipt.attempt = 0,
        |receipt| receipt.path[0].location = decode(&encode(&"XX".to_owned())).unwrap(),
        |receipt| receipt.parts[0].party.control = decode(&encode(&"de".to_owned())).unwrap(),
        |receipt| receipt.work.as_mut().unwrap().used.price.as_mut().unwrap().currency = no_code(),
        |receipt| receipt.parts[0].used.price.as_mut().unwrap().currency = no_code(),
        |receipt| receipt.model = String::new(),
        |receipt| receipt.path[1].operator = "a\nb".into(),
        |receipt| receipt.work.as_mut().unwrap().runtime = "x".repeat(NAME_BYTES_MAX + 1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut receipt = receipt(1);
        change(&mut receipt);
        assert!(matches!(receipt.seal(), Err(ReceiptFault::Field(_))), "{number}");
        let bytes = [b"hansa/receipt/v1\n".as_slice(), &encode(&receipt)].concat();
        assert!(Receipt::open(&bytes).is_err(), "{number}");
    }
}

/// The identifier of who runs the peer that `party` names.
fn identified(mut receipt: Receipt, charter: Digest, lei: &str) -> Receipt {
    receipt.leis.insert(charter, lei.parse().unwrap());
    receipt
}

#[test]
fn a_receipt_with_identifiers_is_of_version_2_and_all_others_stay_what_they_were() {
    let (plain, lei) = (receipt(1), "506700GE1G29325QX363");
    let charter = plain.parts[0].party.charter;
    let named = identified(plain.clone(), charter, lei);
    let (sealed, before) = (named.seal().unwrap(), plain.seal().unwrap());
    // The bytes of version 1, one identifier after them.
    assert_eq!(sealed[..17], *b"hansa/receipt/v2\n");
    assert_eq!(sealed[17..before.len()], before[17..]);
    assert_eq!(sealed[before.len()..], [&[1], &charter.0[..], lei.as_bytes()].concat());
    let opened = Receipt::open(&sealed).unwrap();
    assert_eq!(opened, named);
    assert_eq!(opened.lei(&opened.parts[0].party).unwrap().to_string(), lei);
    assert_eq!(opened.lei(&opened.path[0]), None);
    // Either version for the other is another form.
    let as_2 = [b"hansa/receipt/v2\n", &before[17..], &[0]].concat();
    assert_eq!(Receipt::open(&as_2), Err(ReceiptFault::NotCanonical));
    let as_1 = [b"hansa/receipt/v1\n", &sealed[17..]].concat();
    assert!(Receipt::open(&as_1).is_err());
    for length in 0..sealed.len() {
        assert!(Receipt::open(&sealed[..length]).is_err(), "{length}");
    }
    let nobodys = identified(plain, Digest([1; 32]), lei);
    assert!(matches!(nobodys.seal(), Err(ReceiptFault::Field(_))));
    let at = sealed.len() - 1;
    let mistyped = [&sealed[..at], b"4"].concat();
    assert!(matches!(Receipt::open(&mistyped), Err(ReceiptFault::Field(_))));
}

#[test]
fn without_its_salt_a_commitment_says_nothing_and_with_it_one_thing() {
    let payload = Digest::of(b"a payload");
    let (salt, other) = (Salt([1; 32]), Salt([2; 32]));
    let committed = commit(&salt, Side::Input, &payload);
    let by_hand = [&[1; 32], b"hansa/input/v1\n".as_slice(), &payload.0].concat();
    assert_eq!(committed, Digest::of(&by_hand));
    assert_ne!(committed, commit(&other, Side::Input, &payload));
    let read = Salt::from_hex(&salt.to_hex()).unwrap();
    assert_eq!((read.0, salt.to_hex().len()), (salt.0, 64));
    assert!(Salt::from_hex("01").is_none());
    assert_ne!(committed, commit(&salt, Side::Output, &payload));
    assert_ne!(committed, commit(&salt, Side::Input, &Digest::of(b"another payload")));
}

#[test]
fn a_payload_has_one_digest_whatever_the_order_of_its_tensors() {
    let meta = |name: &str| TensorMeta { name: name.into(), dtype: 1, shape: vec![2], bytes: 8 };
    let (a, b) = (meta("a"), meta("b"));
    let (one, two) = ([1_u8; 8], [2_u8; 8]);
    let digest = payload_digest(&[(&a, &one), (&b, &two)]);
    assert_eq!(digest, payload_digest(&[(&b, &two), (&a, &one)]));
    assert_ne!(digest, payload_digest(&[(&a, &two), (&b, &one)]));
    assert_eq!(digest, Digest::of(&[encode(&a), one.into(), encode(&b), two.into()].concat()));
}

#[test]
fn who_ran_what_is_told_of_the_whole_tree() {
    let receipt = receipt(1);
    assert_eq!(receipt.entry().peer, key(2).peer_id());
    assert_eq!(receipt.keeper().peer, key(1).peer_id());
    let ran: Vec<_> =
        receipt.ran().map(|(party, used)| (party.operator.as_str(), used.rows)).collect();
    assert_eq!(ran, [("Nordlicht GmbH", 3), ("Harp Ltd", 5)]);
    assert_eq!(leaf(b""), Digest::of(&[0]));
}

#[test]
fn people_read_dates_and_ids() {
    assert_eq!(date(Utc(1_800_000_000_250)), "2027-01-15T08:00:00.25Z");
    let json = serde_json::to_value(receipt(1)).unwrap();
    assert_eq!(json["started"], "2027-01-15T08:00:00.25Z");
    assert_eq!(json["job"], "01010101010101010101010101010101");
    assert_eq!(json["rejected"]["location"], 3);
    assert_eq!(json["path"][1]["location"], "DE-BE");
    assert_eq!(json["parts"][0]["share"]["rows"]["first"], 3);
    assert!(json["bundle"].as_str().unwrap().starts_with("sha256:0303"));
}
