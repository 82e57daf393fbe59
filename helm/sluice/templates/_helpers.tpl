{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sluice.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "sluice.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sluice.volumeMounts" -}}
- name: config
  mountPath: /etc/sluice
  readOnly: true
- name: secrets
  mountPath: /run/secrets/sluice
  readOnly: true
{{- end -}}

{{/* The projected volume names each secret, so that a missing one keeps the pod from starting and shows in its events. */}}
{{- define "sluice.volumes" -}}
{{- $root := .root -}}
- name: config
  configMap:
    name: {{ .config }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- /* Nothing secret to mount is an empty list, not a missing one. */}}
      {{- if not (or .kek $root.Values.store.redis.passwordSecret $root.Values.kafka.security.passwordSecret $root.Values.kafka.security.caSecret) }} []{{ end }}
      {{- if .kek }}
      - secret:
          name: {{ $root.Values.store.kekSecret }}
          items: [{ key: kek, path: kek }]
      {{- end }}
      {{- with $root.Values.store.redis.passwordSecret }}
      - secret:
          name: {{ . }}
          items: [{ key: password, path: redis-password }]
      {{- end }}
      {{- with $root.Values.kafka.security.passwordSecret }}
      - secret:
          name: {{ . }}
          items: [{ key: password, path: kafka-password }]
      {{- end }}
      {{- with $root.Values.kafka.security.caSecret }}
      - secret:
          name: {{ . }}
          items: [{ key: ca.crt, path: kafka-ca.crt }]
      {{- end }}
{{- end -}}

{{/* The configuration of the edge and of the topics job. Strings are written as JSON, which TOML reads the same. */}}
{{- define "sluice.config" -}}
[edge]
tcp = {{ ternary "0.0.0.0:9000" "off" .Values.service.tcp.enabled | toJson }}
udp = {{ ternary "0.0.0.0:9000" "off" .Values.service.udp.enabled | toJson }}
{{- if .Values.edge.shards }}
shards = {{ .Values.edge.shards }}
{{- end }}

[edge.proxy_protocol]
trusted = {{ .Values.edge.proxyProtocolTrusted | toJson }}

[edge.session]
tcp_idle_timeout = {{ .Values.edge.idleTimeout.tcp | toJson }}
udp_idle_timeout = {{ .Values.edge.idleTimeout.udp | toJson }}

[edge.limits]
sessions = {{ .Values.edge.maxSessions | int64 }}

[edge.cluster]
enabled = {{ .Values.edge.cluster.enabled }}
listen = {{ printf "0.0.0.0:%d" (int .Values.edge.cluster.port) | toJson }}

[edge.drain]
notice = {{ printf "%ds" (int .Values.edge.drain.delaySeconds) | toJson }}
deadline = {{ printf "%ds" (int .Values.edge.drain.deadlineSeconds) | toJson }}

[store]
kind = "redis"
kek_file = "/run/secrets/sluice/kek"

[store.redis]
topology = {{ .Values.store.redis.topology | toJson }}
urls = {{ .Values.store.redis.urls | toJson }}
key_prefix = {{ .Values.store.redis.keyPrefix | toJson }}
{{- with .Values.store.redis.sentinelMaster }}
sentinel_master = {{ . | toJson }}
{{- end }}
{{- with .Values.store.redis.username }}
username = {{ . | toJson }}
{{- end }}
{{- if .Values.store.redis.passwordSecret }}
password_file = "/run/secrets/sluice/redis-password"
{{- end }}

[bus]
kind = "kafka"
brokers = {{ .Values.kafka.brokers | toJson }}
topic_prefix = {{ .Values.kafka.topicPrefix | toJson }}
compression = {{ .Values.kafka.compression | toJson }}
{{- with .Values.kafka.security }}
{{- if ne .protocol "plaintext" }}

[bus.security]
protocol = {{ .protocol | toJson }}
{{- with .mechanism }}
mechanism = {{ . | toJson }}
{{- end }}
{{- with .username }}
username = {{ . | toJson }}
{{- end }}
{{- if .passwordSecret }}
password_file = "/run/secrets/sluice/kafka-password"
{{- end }}
{{- if .caSecret }}
ca_file = "/run/secrets/sluice/kafka-ca.crt"
{{- end }}
{{- end }}
{{- end }}

[admin]
listen = {{ printf "0.0.0.0:%d" (int .Values.admin.port) | toJson }}

[telemetry.log]
filter = {{ .Values.edge.log.filter | toJson }}
{{- end -}}
