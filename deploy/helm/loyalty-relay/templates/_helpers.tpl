{{- define "relay.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "relay.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "relay.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Called with (dict "root" $ "component" "receiver"). */}}
{{- define "relay.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "relay.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "relay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where the log is: every role needs it. */}}
{{- define "relay.logEnv" -}}
- name: RELAY_LOG_URL
  value: {{ printf "kafka://%s" (join "," .Values.kafka.brokers) | quote }}
{{- with .Values.kafka.user }}
- name: RELAY_KAFKA_USER
  value: {{ . | quote }}
{{- end }}
{{- with .Values.kafka.mechanism }}
- name: RELAY_KAFKA_MECHANISM
  value: {{ . | quote }}
{{- end }}
{{- if .Values.secret.keys.kafkaPassword }}
- name: RELAY_KAFKA_PASSWORD_FILE
  value: /run/relay/secrets/kafka-password
{{- end }}
{{- if .Values.kafka.tls }}
- name: RELAY_KAFKA_TLS
  value: "1"
{{- end }}
{{- if .Values.kafka.ca.configMap }}
- name: RELAY_KAFKA_CA
  value: /run/relay/kafka-ca/{{ .Values.kafka.ca.key }}
{{- end }}
{{- with .Values.kafka.topicPrefix }}
- name: RELAY_TOPIC_PREFIX
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* What receivers and consumers share. An ingress or the mesh ends TLS. */}}
{{- define "relay.commonEnv" -}}
{{ include "relay.logEnv" . }}
- name: RELAY_BEHIND_TLS
  value: "1"
- name: RELAY_GRACE
  value: {{ printf "%ds" (int .Values.graceSeconds) | quote }}
{{- if .Values.secret.keys.operationsPassword }}
- name: RELAY_OPERATIONS_PASSWORD_FILE
  value: /run/relay/secrets/operations-password
{{- end }}
{{- include "relay.loyaltyEnv" . }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Consumers need them as long as a hold is open, whoever answers the calls. */}}
{{- define "relay.loyaltyEnv" -}}
{{- with .Values.loyalty }}
{{- if .programs }}
{{- $all := dict "PROGRAMS" .programs "RATES" .rates "AMOUNT_UNIT" .amountUnit "CARD_FORM" .cardForm "INVALID_STATUS" .invalidStatus "TIMEOUT" .timeout }}
{{- range $name, $value := $all }}
{{- if $value }}
- name: RELAY_LOYALTY_{{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
- name: RELAY_BALANCE_FRESH
  value: {{ .balanceFresh | quote }}
- name: RELAY_DEBIT_BY
  value: {{ .debitBy | quote }}
{{- with .debitRewards }}
- name: RELAY_DEBIT_REWARDS
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of who plans by the ledger and talks to Splio. */}}
{{- define "relay.effectEnv" -}}
- name: RELAY_LEDGER_URL_FILE
  value: /run/relay/secrets/ledger-url
- name: RELAY_SPLIO_URL
  value: {{ .Values.splio.url | quote }}
- name: RELAY_SPLIO_API_KEY_FILE
  value: /run/relay/secrets/splio-api-key
{{- end }}

{{- define "relay.mounts" -}}
- {name: secrets, mountPath: /run/relay/secrets, readOnly: true}
{{- if .Values.kafka.ca.configMap }}
- {name: kafka-ca, mountPath: /run/relay/kafka-ca, readOnly: true}
{{- end }}
{{- end }}

{{/* Called with (dict "root" $ "keys" (list "splioApiKey" …)): only these are mounted. */}}
{{- define "relay.volumes" -}}
{{- $files := dict "ledgerUrl" "ledger-url" "webhookCredentials" "webhook-credentials" "splioApiKey" "splio-api-key" "loyaltyTokens" "loyalty-tokens" "operationsPassword" "operations-password" "kafkaPassword" "kafka-password" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
    {{- range .keys }}
      {{- $key := get $.root.Values.secret.keys . }}
      {{- if $key }}
      - secret:
          name: {{ required "secret.name: name an existing Secret" $.root.Values.secret.name }}
          items: [{key: {{ $key | quote }}, path: {{ get $files . }}}]
      {{- end }}
    {{- end }}
{{- with .root.Values.kafka.ca }}
{{- if .configMap }}
- name: kafka-ca
  configMap: {name: {{ .configMap }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "relay.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: operations}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
# Alive, not ready: a process that waits for Kafka or PostgreSQL needs no restart.
livenessProbe:
  httpGet: {path: /healthz, port: operations}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: operations}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* Called with (dict "root" $ "component" …, "values" .Values.receiver). */}}
{{- define "relay.placement" -}}
{{- with .root.Values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  {{- range $key, $otherwise := dict "kubernetes.io/hostname" .whenUnsatisfiable "topology.kubernetes.io/zone" "ScheduleAnyway" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $otherwise }}
    labelSelector:
      matchLabels:
        {{- include "relay.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
