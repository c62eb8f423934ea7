"""An example of the catalog, for a real cloud: ``changeover config example --catalog``."""

TEXT = """\
# The catalog: what devices there are, and what each can be programmed to do.
# `changeover config check` names every mistake in it with line and field.

# How devices are programmed. A vendor's tool is run on the device's own host, by a worker that
# was started there with `changeover worker --host HOST`; no shell is involved. In its words
# {address}, {device}, {function}, {image}, {sha256} and {vgpu_type} are replaced.
programmers:
  vendor-tool:
    kind: command
    program: [/opt/vendor/bin/load, --device, "{address}", --image, "{image}"]
    # Prints the name of the function that is loaded, or nothing if the device is empty.
    read: [/opt/vendor/bin/show, --device, "{address}"]
    timeout_seconds: 600
  vgpu-tool:
    kind: command
    program: [/usr/local/bin/set-vgpu-type, "{address}", "{vgpu_type}"]
    read: [/usr/local/bin/get-vgpu-type, "{address}"]
    timeout_seconds: 60
  # Cyborg's own program call, for devices that Cyborg manages (`owner: cyborg`, `address` is the
  # deployable's uuid; functions name images of Glance by uuid): docs/openstack.md.
  cyborg:
    kind: cyborg
    report_seconds: 180   # within which Cyborg's agents report what a card holds
    # drain_seconds: 600  # after which an unanswered call cannot run any more

# Kinds of devices. A single_program device is programmed as a whole and then offers what its
# function yields. A region of a fully_dynamic card always offers its own resource class: which
# function is loaded is only a hint (a preferred trait), and each region is programmed by itself.
models:
  u50:
    programmer: vendor-tool
    traits: [CUSTOM_FPGA_CARD_U50]
  pgpu:
    programmer: vgpu-tool
    traits: [CUSTOM_PGPU]
  n3000:
    programmer: cyborg
    traits: [CUSTOM_FPGA_INTEL]
  u250-region:
    mode: fully_dynamic
    programmer: vendor-tool
    traits: [CUSTOM_FPGA_CARD_U250]
    resource_class: CUSTOM_FPGA_REGION
    # resets: card     if programming one region takes down the others of its card

# What a device can be programmed to do: the traits that flavors require, the resource class of
# its slots, what is loaded, how many slots it yields on each model, and how long it takes.
functions:
  aes:
    traits: [CUSTOM_FPGA_FUNCTION_AES]
    resource_class: CUSTOM_FPGA
    artifact:
      image: aes.bit
      sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    fits: {u50: 1, u250-region: 1}
    seconds: 45
    # What is believed of its demand before any was seen: bursts of boots a day, slots of each.
    expected: {arrivals_a_day: 4, burst_slots: 2}
  gzip:
    traits: [CUSTOM_FPGA_FUNCTION_GZIP]
    resource_class: CUSTOM_FPGA
    artifact:
      image: gzip.bit
      sha256: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
    fits: {u50: 2, u250-region: 1}
    seconds: 45
  crypto:
    traits: [CUSTOM_FPGA_FUNCTION_CRYPTO]
    resource_class: FPGA
    artifact:
      image: 421a7ba4-eed5-40f9-a6a2-92e8cb32dc1a
      sha256: 486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7
    fits: {n3000: 1}
    seconds: 30
  nvidia-35:
    traits: [CUSTOM_VGPU_TYPE_NVIDIA_35]
    resource_class: VGPU
    artifact: {vgpu_type: nvidia-35}
    fits: {pgpu: 8}
    seconds: 5
  nvidia-36:
    traits: [CUSTOM_VGPU_TYPE_NVIDIA_36]
    resource_class: VGPU
    artifact: {vgpu_type: nvidia-36}
    fits: {pgpu: 4}
    seconds: 5

# One line a device. `provider` is the uuid of its resource provider in Placement, `address` what
# its tool calls it. A `pinned` device is never programmed.
devices:
  - name: fpga1
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a01
    model: u50
    host: compute1
    address: "0000:3b:00.0"
  - name: fpga2
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a02
    model: u50
    host: compute2
    address: "0000:3b:00.0"
    pinned: true
  - name: n1
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a06
    model: n3000
    host: compute1
    address: 41fd7c9f-629a-4af0-8192-7d787830f342
    owner: cyborg
  - name: gpu1
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a03
    model: pgpu
    host: compute1
    address: "0000:af:00.0"
  - name: big-r1
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a04
    model: u250-region
    host: compute2
    card: big
    address: "0000:5e:00.0/0"
  - name: big-r2
    provider: 0f9d6f0a-6c5e-4a43-9a0c-3a1d5d3b8a05
    model: u250-region
    host: compute2
    card: big
    address: "0000:5e:00.0/1"

# Or let rules find them: providers that have these traits, classes, aggregates or names. What two
# rules match, or no model, is reported (`changeover discover`) and left alone. Entries above win.
discover:
  more-u50:
    model: u50
    traits: [CUSTOM_FPGA_CARD_U50]
    exclude: ["compute9_*"]
    address: "[^_]*_(.*)"     # compute1_0000:3b:00.0 -> 0000:3b:00.0
  # deployables: {source: cyborg}     # all of Cyborg's, each of the model whose traits it has

# What is kept of each function, in slots, and whether Changeover may act: `observe` only
# recommends, `approve` waits for a person, `act` acts. Functions without an entry have no floor.
pools:
  gzip: {min_free: 1, mode: act}
  nvidia-35: {min_free: 4, max_devices: 1, mode: act}
  aes: {mode: observe}
"""
