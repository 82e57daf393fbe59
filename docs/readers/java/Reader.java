import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Prints each message once: java -cp 'kafka-clients.jar:...' Reader.java BROKERS TOPIC GROUP ISOLATION */
public class Reader {
    /** Names that are remembered; older ones are forgotten. */
    private static final int REMEMBERED = 100_000;

    public static void main(String[] args) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("group.id", args[2]);
        settings.put("isolation.level", args[3]); // "read_committed"; the default is read_uncommitted
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        Set<String> seen = Collections.newSetFromMap(new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > REMEMBERED;
            }
        });
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(args[1]));
            do {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    String id = id(record);
                    if (seen.add(id)) {
                        // Here is the work. Keep the id with its result: this set does not outlive the process.
                        System.out.println(record.key() + " " + id + " " + record.value().length);
                    }
                }
                consumer.commitSync(); // behind the work: a message that was being worked on comes again
            } while (!atEnd(consumer)); // a service goes on for ever
        }
    }

    /** Session, rekey epoch and sequence number: the same in every copy of a message. */
    private static String id(ConsumerRecord<?, ?> record) {
        return new String(record.headers().lastHeader("ce_id").value(), StandardCharsets.UTF_8);
    }

    /** With read_committed, a partition ends where its oldest open transaction begins. */
    private static boolean atEnd(KafkaConsumer<?, ?> consumer) {
        var ends = consumer.endOffsets(consumer.assignment());
        return !ends.isEmpty()
                && ends.entrySet().stream().allMatch(end -> consumer.position(end.getKey()) >= end.getValue());
    }
}
